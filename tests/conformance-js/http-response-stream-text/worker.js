export default {
  async fetch() {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue("grüße ");
        controller.enqueue(new TextEncoder().encode("🙂"));
        controller.close();
      },
    });
    return new Response(body);
  },
};
