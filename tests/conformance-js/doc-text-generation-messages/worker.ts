export interface Env {
  AI: Ai;
}

export default {
  async fetch(request, env): Promise<Response> {
    const messages = [
      { role: "system", content: "You are a librarian who recommends books." },
      { role: "user", content: "A short novel about the sea, please." },
    ];
    const result = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", { messages });
    return Response.json(result);
  },
} satisfies ExportedHandler<Env>;
