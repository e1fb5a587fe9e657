export interface Env {
  AI: Ai;
}

export default {
  async fetch(request, env, ctx): Promise<Response> {
    const stream = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      prompt: "Tell a story about a lighthouse",
      stream: true,
    });
    return new Response(stream, {
      headers: { "content-type": "text/event-stream" },
    });
  },
} satisfies ExportedHandler<Env>;
