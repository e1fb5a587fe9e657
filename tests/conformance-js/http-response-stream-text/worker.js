function texts() {
  return new ReadableStream({
    start(controller) {
      controller.enqueue("grüße ");
      controller.enqueue("🙂");
      controller.close();
    },
  });
}

export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    return new Response(pathname === "/encoded" ? texts().pipeThrough(new TextEncoderStream()) : texts());
  },
};
