export default {
  async fetch(request, env) {
    const allowed = await env.AI.run("allowed", { prompt: "hi" });
    const refused = await env.AI.run("other", { prompt: "hi" }).catch((error) => error);
    return Response.json({ allowed: allowed.response, name: refused.name, message: refused.message });
  },
};
