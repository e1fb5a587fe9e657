async function writeStatistics() {
  await new Promise((resolve) => setTimeout(resolve, 20));
  throw new RangeError("the statistics are full");
}

export default {
  async fetch(request, env, ctx) {
    ctx.waitUntil(writeStatistics());
    return new Response("fine");
  },
};
