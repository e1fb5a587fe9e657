export default {
  async fetch(request, env) {
    const caught = async (inputs) => {
      try {
        return await env.AI.run("@cf/meta/llama-3.1-8b-instruct", inputs);
      } catch (error) {
        return { name: error.name, message: error.message };
      }
    };
    const body = () => new Blob(["sound"]).stream();
    return Response.json({
      typed: await caught({ prompt: "a", audio: { body: body(), contentType: "audio/mpeg" } }),
      untyped: await caught({ prompt: "a", audio: { body: body() } }),
      two: await caught({
        image: { body: body(), contentType: "image/png" },
        audio: { body: body(), contentType: "audio/mpeg" },
      }),
    });
  },
};
