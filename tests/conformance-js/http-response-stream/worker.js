const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export default {
  async fetch(request, env, ctx) {
    const { readable, writable } = new TransformStream();
    const writer = writable.getWriter();
    const encoder = new TextEncoder();
    ctx.waitUntil(
      (async () => {
        for (const word of ["one\n", "two\n", "three\n"]) {
          await writer.write(encoder.encode(word));
          await sleep(200);
        }
        await writer.close();
      })(),
    );
    return new Response(readable);
  },
};
