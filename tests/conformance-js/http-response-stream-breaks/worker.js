export default {
  async fetch() {
    let pieces = 0;
    const body = new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        pieces += 1;
        if (pieces > 2) throw new Error("the source broke");
        controller.enqueue(new TextEncoder().encode(`piece ${pieces}\n`));
      },
    });
    return new Response(body);
  },
};
