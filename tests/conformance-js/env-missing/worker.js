export default {
  async fetch(request, env) {
    return Response.json({ ai: typeof env.AI, token: typeof env.TOKEN, has: "AI" in env });
  },
};
