export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === "/unawaited") {
      env.AI.run("endless", { prompt: "x" }).catch(() => {});
      return new Response("not waiting");
    }
    const stream = await env.AI.run("endless", { prompt: "x", stream: true });
    if (pathname === "/unread") return new Response("none is enough");
    await stream.getReader().read();
    return new Response("one piece is enough");
  },
};
