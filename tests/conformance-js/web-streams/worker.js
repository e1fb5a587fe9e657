export default {
  async fetch() {
    const numbers = new ReadableStream({
      start(controller) {
        for (const number of [1, 2, 3]) controller.enqueue(number);
        controller.close();
      },
    });
    const doubled = numbers.pipeThrough(
      new TransformStream({
        transform(number, controller) {
          controller.enqueue(number * 2);
        },
      }),
    );
    const [left, right] = doubled.tee();
    const collect = async (stream) => {
      const seen = [];
      for await (const value of stream) seen.push(value);
      return seen;
    };
    const written = [];
    const sink = new WritableStream({
      write(chunk) {
        written.push(chunk);
      },
    });
    await right.pipeTo(sink);

    const failing = new ReadableStream({
      pull() {
        throw new RangeError("dry");
      },
    });
    const failure = await failing.getReader().read().catch((error) => error.name);

    const gzip = new Blob(["squeeze ".repeat(100)]).stream().pipeThrough(new CompressionStream("gzip"));
    const squeezed = await new Response(gzip).arrayBuffer();
    const plain = new Blob([squeezed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return Response.json({
      left: await collect(left),
      written,
      failure,
      smaller: squeezed.byteLength < 800,
      plain: (await new Response(plain).text()).length,
    });
  },
};
