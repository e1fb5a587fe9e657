export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/hoard") {
      const hoard = [];
      for (;;) hoard.push(new Array(10_000).fill(hoard.length));
    }
    return new Response("fine");
  },
};
