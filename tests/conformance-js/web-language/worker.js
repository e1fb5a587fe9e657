class Counter {
  #count = 0;
  static made = 0;
  static {
    Counter.made = 1;
  }
  get count() {
    return this.#count;
  }
  add() {
    this.#count += 1;
    return this;
  }
}

export default {
  async fetch() {
    async function* numbers() {
      yield 1;
      yield 2;
    }
    const seen = [];
    for await (const number of numbers()) seen.push(number);
    const settled = await Promise.allSettled([Promise.resolve(1), Promise.reject(new Error("no"))]);
    return Response.json({
      iso: new Date(Date.UTC(2025, 0, 2, 3, 4, 5)).toISOString(),
      upper: "straße".toUpperCase(),
      count: new Counter().add().add().count + Counter.made,
      seen,
      settled: settled.map(({ status }) => status),
      any: await Promise.any([Promise.reject(new Error("no")), Promise.resolve("yes")]),
      grouped: Object.groupBy([1, 2, 3], (number) => (number % 2 ? "odd" : "even")),
      at: [1, 2, 3].at(-1),
      sorted: [3, 1, 2].toSorted(),
      named: "2025-01".match(/(?<year>\d{4})-(?<month>\d\d)/).groups.year,
      unicode: /^\p{Letter}+$/u.test("grüße") && !/^[\p{L}--[a-z]]$/v.test("a"),
      behind: "price 42".replace(/(?<=price )\d+/, "7"),
      big: (2n ** 70n).toString(),
      weak: new WeakRef({ a: 1 }).deref().a,
      resolvers: typeof Promise.withResolvers,
    });
  },
};
