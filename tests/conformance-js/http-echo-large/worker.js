export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/stream") return new Response(request.body);
    if (pathname === "/text") return new Response(await request.text());
    return new Response(await request.arrayBuffer());
  },
};
