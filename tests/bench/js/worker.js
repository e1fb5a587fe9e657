// What `cargo xtask bench js` measures: the same file in this host and in workerd, so it uses nothing that only one has.
// `/ai-stream` is for this host alone, which has a model behind `env.AI`.

const PIECES = 200;

export default {
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url);
    switch (pathname) {
      case "/hello":
        return new Response("Hello, world!");
      case "/echo":
        return Response.json(await request.json());
      case "/stream":
        return stream(ctx);
      case "/ai-stream":
        return aiStream(env);
      default:
        return new Response("not found", { status: 404 });
    }
  },
};

// Server-sent events of about 100 bytes, written as they come into being.
function stream(ctx) {
  const { readable, writable } = new TransformStream();
  ctx.waitUntil(write(writable.getWriter()));
  return new Response(readable, { headers: { "content-type": "text/event-stream" } });
}

async function write(writer) {
  const encoder = new TextEncoder();
  for (let index = 0; index < PIECES; index++) {
    const event = { index, response: "a piece of text as a model might say it, token by token, so on" };
    await writer.write(encoder.encode(`data: ${JSON.stringify(event)}\n\n`));
  }
  await writer.close();
}

// As many pieces, made by the host's scripted model and returned as they are.
async function aiStream(env) {
  const body = await env.AI.run("scripted", { prompt: "Say something", max_tokens: PIECES, stream: true });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}
