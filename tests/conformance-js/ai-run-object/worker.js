export default {
  async fetch(request, env) {
    const output = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "hello there" });
    return Response.json(output);
  },
};
