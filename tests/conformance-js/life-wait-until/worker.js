export default {
  async fetch(request, env, ctx) {
    ctx.waitUntil(
      new Promise((resolve) => setTimeout(resolve, 150)).then(() => console.log("done after the answer")),
    );
    return new Response("at once");
  },
};
