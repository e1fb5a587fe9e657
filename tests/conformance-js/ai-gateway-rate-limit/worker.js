export default {
  async fetch(request, env) {
    const seen = [];
    for (let call = 0; call < 3; call++) {
      try {
        seen.push((await env.AI.run("local", { prompt: "a" }, { gateway: { id: "narrow" } })).response);
      } catch (error) {
        seen.push(error.message);
      }
    }
    const step = { provider: "workers-ai", endpoint: "local", headers: {}, query: { prompt: "a" } };
    seen.push((await env.AI.gateway("narrow").run(step)).status);
    return Response.json(seen);
  },
};
