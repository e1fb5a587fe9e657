export default {
  async fetch(): Promise<Response> {
    return new Response("fetched");
  },

  async scheduled(controller, env, ctx): Promise<void> {
    console.log(`ran for ${controller.cron} at ${typeof controller.scheduledTime}`);
    ctx.waitUntil(
      env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", { prompt: "good morning" }).then((output) => {
        console.log(`said ${output.response}`);
      }),
    );
  },
} satisfies ExportedHandler<{ AI: Ai }>;
