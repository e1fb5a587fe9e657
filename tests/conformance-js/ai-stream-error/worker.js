export default {
  async fetch(request, env) {
    const caught = async (inputs) => {
      try {
        await env.AI.run("@cf/nobody/nothing", inputs);
        return "resolved";
      } catch (error) {
        return { name: error.name, message: error.message };
      }
    };
    return Response.json({
      before: await caught({ prompt: "a", stream: true }),
      during: await new Response(await env.AI.run("breaks", { prompt: "a", stream: true })).text(),
    });
  },
};
