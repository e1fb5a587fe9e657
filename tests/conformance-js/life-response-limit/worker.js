export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/endless") {
      const piece = new Uint8Array(10_000);
      return new Response(new ReadableStream({ pull: (controller) => controller.enqueue(piece) }));
    }
    return new Response("fine");
  },
};
