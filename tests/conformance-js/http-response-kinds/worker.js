const kinds = {
  "/text": () => new Response("grüße 🙂"),
  "/bytes": () => new Response(new Uint8Array([0, 255, 10])),
  "/buffer": () => new Response(new Uint8Array([1, 2]).buffer),
  "/blob": () => new Response(new Blob(["blob"], { type: "text/x-blob" })),
  "/parameters": () => new Response(new URLSearchParams({ a: "1", b: "ü" })),
  "/json": () => Response.json({ a: [1, null] }, { status: 201, headers: { "x-kind": "json" } }),
  "/null": () => new Response(null, { status: 204 }),
  "/empty": () => new Response(""),
  "/redirect": () => Response.redirect("https://example.com/there", 302),
  "/moved": () => new Response(null, { status: 301, headers: { location: "/here" } }),
  "/not-modified": () => new Response(null, { status: 304, headers: { etag: '"v1"' } }),
  "/clone": async () => {
    const response = new Response("twice");
    const copy = response.clone();
    return new Response((await response.text()) + (await copy.text()));
  },
};

export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    return kinds[pathname]?.() ?? new Response("Not found", { status: 404, statusText: "Not Found" });
  },
};
