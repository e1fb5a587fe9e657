export default {
  async fetch(request, env) {
    const controller = new AbortController();
    const stream = await env.AI.run("endless", { prompt: "a", stream: true }, { signal: controller.signal });
    const reader = stream.getReader();
    const first = await reader.read();
    controller.abort();
    try {
      while (!(await reader.read()).done);
      return new Response("ended");
    } catch (error) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      console.log("going on");
      return Response.json({ first: first.done === false, name: error.name });
    }
  },
};
