export default {
  async fetch(request, env) {
    const streams = await Promise.all([
      env.AI.run("slow", { prompt: "a", stream: true }),
      env.AI.run("slow", { prompt: "b", stream: true }),
    ]);
    const texts = await Promise.all(streams.map((stream) => new Response(stream).text()));
    return Response.json(texts.map((text) => text.endsWith("data: [DONE]\n\n")));
  },
};
