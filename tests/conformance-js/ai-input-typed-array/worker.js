export default {
  async fetch(request, env) {
    const caught = async (image) => {
      try {
        return await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "what is this?", image });
      } catch (error) {
        return `${error.name} ${error.message}`;
      }
    };
    const bytes = new Uint8Array([137, 80, 78, 71]);
    return Response.json({ array: await caught(bytes), buffer: await caught(bytes.buffer) });
  },
};
