export default {
  async fetch() {
    const request = new Request("http://example.com/a", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ a: 1 }),
    });
    const changed = new Request(request, { headers: { "x-added": "yes", "content-type": "text/x-other" } });
    return Response.json({
      method: changed.method,
      added: changed.headers.get("x-added"),
      type: changed.headers.get("content-type"),
      body: await changed.json(),
      used: request.bodyUsed,
    });
  },
};
