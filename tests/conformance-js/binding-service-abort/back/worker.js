export default {
  async fetch(request, env) {
    const stream = new URL(request.url).pathname === "/stream";
    const output = await env.AI.run("endless", { prompt: "a", stream });
    return stream ? new Response(output) : Response.json(output);
  },
};
