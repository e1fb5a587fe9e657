export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/flood") {
      const line = "flood ".repeat(100);
      for (;;) console.log(line);
    }
    return new Response("fine");
  },
};
