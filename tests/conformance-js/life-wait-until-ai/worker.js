export default {
  async fetch(request, env, ctx) {
    ctx.waitUntil(
      env.AI.run("slow", { prompt: "x" }).then(({ response }) => console.log(`afterwards: ${response}`)),
    );
    return new Response("at once");
  },
};
