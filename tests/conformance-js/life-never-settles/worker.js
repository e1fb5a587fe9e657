export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/never") {
      // A timer keeps the instance busy, so that nothing can see that the promise will never settle.
      setInterval(() => {}, 50);
      await new Promise(() => {});
    }
    return new Response("fine");
  },
};
