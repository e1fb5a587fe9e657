export default {
  async fetch(_request, env) {
    const failed = [];
    const bodies = {
      text: "x".repeat(300_000),
      stream: new ReadableStream({
        pull(controller) {
          controller.enqueue(new Uint8Array(100_000));
          if (failed.length > 0) controller.close();
        },
      }),
    };
    for (const [kind, body] of Object.entries(bodies)) {
      // The address is private, so the request is refused before anything of its body has been read.
      await fetch("http://127.0.0.1:9/", { method: "POST", body, duplex: "half" }).catch(() => failed.push(kind));
    }
    const { response } = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "still here" });
    return Response.json({ failed, after: response });
  },
};
