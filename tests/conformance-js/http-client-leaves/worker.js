export default {
  async fetch(request) {
    const body = new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        controller.enqueue(new TextEncoder().encode("again\n"));
      },
      cancel() {
        console.log("the body was cancelled");
      },
    });
    return new Response(body);
  },
};
