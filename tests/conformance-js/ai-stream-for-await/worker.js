export default {
  async fetch(request, env) {
    const stream = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a b", stream: true });
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of stream) text += decoder.decode(chunk, { stream: true });
    return Response.json({ events: text.match(/^data: /gm).length, ended: text.endsWith("data: [DONE]\n\n") });
  },
};
