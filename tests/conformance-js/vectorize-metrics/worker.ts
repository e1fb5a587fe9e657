interface Env {
  COSINE: Vectorize;
  EUCLIDEAN: Vectorize;
  DOT: Vectorize;
}

const VECTORS = [
  { id: "near", values: [1, 1], metadata: { k: 1 } },
  { id: "far", values: [4, 0], metadata: { k: 1 } },
  { id: "against", values: [-1, 0], metadata: { k: 1 } },
];

const LEVELS = [false, "none", "indexed", true] as const;

async function ordered(index: Vectorize): Promise<[string, number][]> {
  await index.insert(VECTORS);
  const { matches } = await index.query([1, 0]);
  return matches.map(({ id, score }) => [id, score]);
}

export default {
  async fetch(_request, { COSINE, EUCLIDEAN, DOT }): Promise<Response> {
    const [cosine, euclidean, dot] = [await ordered(COSINE), await ordered(EUCLIDEAN), await ordered(DOT)];
    const levels: unknown[] = [];
    for (const returnMetadata of LEVELS) {
      const { matches } = await DOT.query([1, 0], { topK: 1, returnMetadata });
      levels.push(matches[0]?.metadata ?? null);
    }
    return Response.json({ cosine, euclidean, dot, levels });
  },
} satisfies ExportedHandler<Env>;
