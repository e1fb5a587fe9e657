export default {
  async fetch(request, env) {
    const { inputs } = await request.json();
    try {
      return Response.json(await env.AI.run("@cf/baai/bge-small-en-v1.5", inputs));
    } catch (error) {
      return Response.json({ name: error.name, message: error.message });
    }
  },
};
