export default {
  async fetch(request, env) {
    const stream = await env.AI.run("endless", { prompt: "x", stream: true });
    const passed = stream.pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          controller.enqueue(chunk);
        },
      }),
    );
    return new Response(passed, { headers: { "content-type": "text/event-stream" } });
  },
};
