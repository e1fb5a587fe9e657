export default {
  async fetch(request, env) {
    const stream = await env.AI.run("slow", { prompt: "count", stream: true });
    return new Response(stream, { headers: { "content-type": "text/event-stream", "x-from": "worker" } });
  },
};
