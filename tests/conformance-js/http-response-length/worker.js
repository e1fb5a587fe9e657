const headers = { "content-length": "99" };

function stream(transform, text) {
  const writer = transform.writable.getWriter();
  writer.write(new TextEncoder().encode(text)).catch(() => {});
  writer.close().catch(() => {});
  return transform.readable;
}

const bodies = {
  "/text": () => "four",
  "/null": () => null,
  "/stream": () => stream(new TransformStream(), "four"),
  "/fixed": () => stream(new FixedLengthStream(4), "four"),
  "/short": () => stream(new FixedLengthStream(9), "four"),
  "/blob": () => new Blob(["four"]),
  "/read": () => new Response("four").body,
};

export default {
  async fetch(request) {
    return new Response(bodies[new URL(request.url).pathname](), { headers });
  },
};
