export default {
  async fetch(request, env, ctx) {
    const stream = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a b c", stream: true });
    const [toClient, toLog] = stream.tee();
    ctx.waitUntil(
      new Response(toLog).text().then((text) => {
        console.log(`logged ${text.match(/^data: /gm).length} events`);
      }),
    );
    return new Response(toClient, { headers: { "content-type": "text/event-stream" } });
  },
};
