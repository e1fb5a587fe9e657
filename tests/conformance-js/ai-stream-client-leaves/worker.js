export default {
  async fetch(request, env) {
    const stream = await env.AI.run("endless", { prompt: "x", stream: true });
    return new Response(stream, { headers: { "content-type": "text/event-stream" } });
  },
};
