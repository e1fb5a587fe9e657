interface Env {
  V: Vectorize;
}

export default {
  async fetch(_request, env) {
    const { V } = env;
    const before = await V.describe();
    const inserted = await V.insert([
      { id: "a", values: [1, 0, 0], namespace: "one", metadata: { lang: "en", deep: { year: 2020 } } },
      { id: "b", values: new Float32Array([0, 1, 0]) },
    ]);
    await V.insert([{ id: "a", values: [9, 9, 9] }]);
    const upserted = await V.upsert([
      { id: "b", values: new Float64Array([0.5, 0.5, 0]) },
      { id: "c", values: [0, 0, 1] },
    ]);
    const query = await V.query(new Float32Array([1, 0, 0]), { topK: 2, returnValues: true, returnMetadata: "all" });
    const plain = await V.query([1, 0, 0]);
    const spaced = await V.query([1, 0, 0], { namespace: "one", returnMetadata: false });
    const byId = await V.queryById("c", { topK: 1, returnMetadata: true });
    const got = await V.getByIds(["b", "nobody", "a"]);
    const deleted = await V.deleteByIds(["a", "nobody"]);
    const after = await V.describe();
    return Response.json({
      before,
      mutations: [inserted, upserted, deleted].map(({ mutationId }) => /^[0-9a-f-]{36}$/.test(mutationId)),
      query,
      plain: plain.matches.map(({ id }) => id),
      spaced: spaced.matches.map(({ id, metadata }) => [id, metadata === undefined]),
      byId: byId.matches.map(({ id, score }) => [id, score]),
      got,
      after: { count: after.vectorCount, dimensions: after.dimensions },
      processed: String(after.processedUpToMutation) === deleted.mutationId,
    });
  },
} satisfies ExportedHandler<Env>;
