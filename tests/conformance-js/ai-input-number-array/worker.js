export default {
  async fetch(request, env) {
    try {
      const prompt = [...new TextEncoder().encode("hello")];
      return Response.json(await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt }));
    } catch (error) {
      return Response.json({ name: error.name, message: error.message });
    }
  },
};
