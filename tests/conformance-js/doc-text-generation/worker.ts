export interface Env {
  AI: Ai;
}

export default {
  async fetch(request, env): Promise<Response> {
    const answer = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      prompt: "Where does the word robot come from?",
    });
    return new Response(JSON.stringify(answer));
  },
} satisfies ExportedHandler<Env>;
