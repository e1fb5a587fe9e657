export default {
  async fetch(request, env) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);
    try {
      await env.AI.run("endless", { prompt: "a" }, { signal: controller.signal });
      return new Response("resolved");
    } catch (error) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      console.log("going on");
      return Response.json({ name: error.name });
    }
  },
};
