export default {
  async fetch(request, env) {
    try {
      await env.AI.run("full", { prompt: "a" });
      return new Response("resolved");
    } catch (error) {
      const [code] = error.message.split(":");
      return Response.json({ name: error.name, message: error.message }, { status: code === "3040" ? 429 : 500 });
    }
  },
};
