export default {
  async fetch(request, env) {
    const controller = new AbortController();
    controller.abort();
    try {
      await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a" }, { signal: controller.signal });
      return new Response("resolved");
    } catch (error) {
      return Response.json({ name: error.name });
    }
  },
};
