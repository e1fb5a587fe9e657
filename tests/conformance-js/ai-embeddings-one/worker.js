export default {
  async fetch(request, env) {
    return Response.json(await env.AI.run("@cf/baai/bge-small-en-v1.5", { text: "one" }));
  },
};
