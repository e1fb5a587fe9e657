export default {
  async fetch(request, env, ctx) {
    const stream = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a b c", stream: true });
    const { readable, writable } = new IdentityTransformStream();
    ctx.waitUntil(stream.pipeTo(writable));
    return new Response(readable, { headers: { "content-type": "text/event-stream" } });
  },
};
