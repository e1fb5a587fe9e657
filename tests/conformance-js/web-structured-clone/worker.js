export default {
  async fetch() {
    const date = new Date(0);
    const original = { date, map: new Map([["a", new Set([1])]]), bytes: new Uint8Array([1, 2]), list: [undefined, 1n] };
    original.self = original;
    const copy = structuredClone(original);
    let refused;
    try {
      structuredClone(() => {});
    } catch (error) {
      refused = error.name;
    }
    return Response.json({
      other: copy !== original && copy.map !== original.map,
      date: copy.date instanceof Date && copy.date.getTime() === 0,
      map: copy.map.get("a").has(1),
      bytes: [...copy.bytes],
      self: copy.self === copy,
      big: copy.list[1] === 1n,
      refused,
    });
  },
};
