export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/bad") throw new Error("bad");
    return new Response("fine");
  },
};
