export default {
  async fetch(request, env) {
    try {
      await env.AI.toMarkdown([{ name: "a.html", blob: new Blob(["<p>a</p>"], { type: "text/html" }) }]);
      return new Response("resolved");
    } catch (error) {
      return Response.json({ isError: error instanceof Error, message: error.message });
    }
  },
};
