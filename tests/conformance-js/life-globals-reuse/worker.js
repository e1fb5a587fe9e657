let count = 0;

export default {
  async fetch() {
    count += 1;
    return Response.json({ count });
  },
};
