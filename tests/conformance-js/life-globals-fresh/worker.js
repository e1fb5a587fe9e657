let count = 0;

export default {
  async fetch() {
    count += 1;
    globalThis.left = (globalThis.left ?? 0) + 1;
    return Response.json({ count, left: globalThis.left });
  },
};
