const message = (promise) =>
  promise.then(
    () => "no error",
    (error) => (error instanceof Error ? error.message : "no Error"),
  );

export default {
  async fetch(_request, { V, ABSENT }) {
    const good = { id: "good", values: [1, 0, 0] };
    const errors = {
      short: await message(V.insert([good, { id: "x", values: [1, 2] }])),
      empty: await message(V.upsert([good, { id: "x", values: [] }])),
      nan: await message(V.upsert([good, { id: "x", values: new Float32Array([1, NaN, 2]) }])),
      infinite: await message(V.insert([good, { id: "x", values: [1, 2, Infinity] }])),
      id: await message(V.insert([good, { id: "x".repeat(65), values: [1, 2, 3] }])),
      key: await message(V.insert([good, { id: "x", values: [1, 2, 3], metadata: { "a.b": 1 } }])),
      large: await message(V.insert([good, { id: "x", values: [1, 2, 3], metadata: { a: "b".repeat(10240) } }])),
      batch: await message(V.insert(Array.from({ length: 1001 }, (_, n) => ({ id: `${n}`, values: [1, 2, 3] })))),
      query: await message(V.query([1, 2, 3, 4])),
      topK: await message(V.query([1, 2, 3], { topK: 101 })),
      whole: await message(V.query([1, 2, 3], { topK: 21, returnMetadata: "all" })),
      level: await message(V.query([1, 2, 3], { returnMetadata: "some" })),
      operator: await message(V.query([1, 2, 3], { filter: { a: { $near: 1 } } })),
      unindexed: await message(V.query([1, 2, 3], { filter: { a: 1 } })),
      nobody: await message(V.queryById("nobody")),
      ids: await message(V.getByIds(Array.from({ length: 21 }, (_, n) => `${n}`))),
      absent: await message(ABSENT.query([1, 2, 3])),
    };
    return Response.json({ errors, count: (await V.describe()).vectorCount });
  },
};
