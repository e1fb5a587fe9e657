export default {
  async fetch(request, env) {
    try {
      await env.AI.run("@cf/nobody/nothing", { prompt: "a" });
      return new Response("resolved");
    } catch (error) {
      return Response.json({
        isError: error instanceof Error,
        name: error.name,
        message: error.message,
        hasStack: typeof error.stack === "string" && error.stack.length > 0,
      });
    }
  },
};
