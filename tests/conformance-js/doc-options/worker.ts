interface Env {
  AI: Ai;
}

export default {
  async fetch(request, env): Promise<Response> {
    const answer = await env.AI.run(
      "@cf/meta/llama-3.1-8b-instruct-fp8",
      { prompt: "hi" },
      { extraHeaders: { "x-session-affinity": "conversation-1" }, tags: ["greeting"] },
    );
    return Response.json(answer);
  },
} satisfies ExportedHandler<Env>;
