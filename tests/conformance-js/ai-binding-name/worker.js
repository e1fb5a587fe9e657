export default {
  async fetch(request, env) {
    const { response } = await env.MODELS.run("parrot", { prompt: "hi" });
    return Response.json({ keys: Object.keys(env), AI: typeof env.AI, response });
  },
};
