export default {
  async fetch(request) {
    return Response.json({ event: request.headers.get("x-workers-event"), url: new URL(request.url).pathname });
  },

  async queue() {
    console.log("the handler was reached");
  },
};
