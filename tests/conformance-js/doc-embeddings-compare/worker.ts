interface Env {
  AI: Ai;
}

function cosine(a: number[], b: number[]): number {
  let dot = 0;
  let left = 0;
  let right = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    left += a[i] ** 2;
    right += b[i] ** 2;
  }
  return dot / Math.sqrt(left * right);
}

export default {
  async fetch(request, env): Promise<Response> {
    const { source, sentences } = await request.json<{ source: string; sentences: string[] }>();
    const output = await env.AI.run("@cf/baai/bge-small-en-v1.5", { text: [source, ...sentences] });
    if (!("data" in output) || !output.data) return new Response("no vectors", { status: 502 });
    const [first, ...others] = output.data;
    return Response.json(others.map((vector) => Math.round(cosine(first, vector) * 1000) / 1000));
  },
} satisfies ExportedHandler<Env>;
