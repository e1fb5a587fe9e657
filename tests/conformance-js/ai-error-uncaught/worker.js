export default {
  async fetch(request, env) {
    return Response.json(await env.AI.run("@cf/nobody/nothing", { prompt: "a" }));
  },
};
