export default {
  async fetch(request, env) {
    const { messages } = await request.json();
    return Response.json(await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { messages }));
  },
};
