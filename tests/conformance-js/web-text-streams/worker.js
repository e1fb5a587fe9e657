export default {
  async fetch() {
    const bytes = new TextEncoder().encode("grüße 🙂");
    const oneByOne = new ReadableStream({
      start(controller) {
        for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
        controller.close();
      },
    });
    let text = "";
    for await (const piece of oneByOne.pipeThrough(new TextDecoderStream())) text += piece;

    const encoded = new ReadableStream({
      start(controller) {
        controller.enqueue("grü");
        controller.enqueue("ße");
        controller.close();
      },
    }).pipeThrough(new TextEncoderStream());
    const back = await new Response(encoded).text();

    let fatal;
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([0xff]));
    } catch (error) {
      fatal = error.name;
    }
    const into = new TextEncoder().encodeInto("ab🙂", new Uint8Array(5));
    return Response.json({ text, back, fatal, into });
  },
};
