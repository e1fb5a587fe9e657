export default {
  async fetch(request, env, ctx) {
    const cache = caches.default;
    const key = new Request(new URL("/kept", request.url));
    const { pathname } = new URL(request.url);
    if (pathname === "/put") {
      const response = new Response("from the cache", { headers: { "cache-control": "max-age=60", "x-kept": "yes" } });
      ctx.waitUntil(cache.put(key, response.clone()));
      return response;
    }
    if (pathname === "/delete") return Response.json({ deleted: await cache.delete(key) });
    const found = await cache.match(key);
    return found ?? new Response("nothing kept", { status: 404 });
  },
};
