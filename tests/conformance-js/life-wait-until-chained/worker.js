const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export default {
  async fetch(request, env, ctx) {
    const { waitUntil } = { waitUntil: (promise) => ctx.waitUntil(promise) };
    waitUntil(
      sleep(50).then(() => {
        ctx.waitUntil(sleep(50).then(() => console.log("the second is done")));
      }),
    );
    ctx.waitUntil("no promise at all");
    return new Response("ok");
  },
};
