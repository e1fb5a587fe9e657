export interface Env {
  AI: Ai;
}

export default {
  async fetch(request, env): Promise<Response> {
    const sentences = ["Rain is expected in the evening.", "The train leaves at noon.", "Bread needs time to rise."];
    const embeddings = await env.AI.run("@cf/baai/bge-small-en-v1.5", { text: sentences });
    return Response.json(embeddings);
  },
} satisfies ExportedHandler<Env>;
