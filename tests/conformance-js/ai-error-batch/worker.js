export default {
  async fetch(request, env) {
    const { inputs, options } = await request.json();
    try {
      return Response.json(await env.AI.run("@cf/meta/llama-3.1-8b-instruct", inputs, options));
    } catch (error) {
      return Response.json({ name: error.name, message: error.message });
    }
  },
};
