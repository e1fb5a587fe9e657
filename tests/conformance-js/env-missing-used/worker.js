export default {
  async fetch(request, env) {
    const { response } = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a" });
    return new Response(response);
  },
};
