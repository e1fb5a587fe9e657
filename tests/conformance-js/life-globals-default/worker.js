const started = crypto.randomUUID === undefined ? "never" : {};
let count = 0;

export default {
  async fetch() {
    count += 1;
    return Response.json({ count, started: typeof started });
  },
};
