export default {
  async fetch(request, env, ctx) {
    ctx.passThroughOnException();
    return Response.json({
      passThroughOnException: typeof ctx.passThroughOnException,
      waitUntil: typeof ctx.waitUntil,
    });
  },
};
