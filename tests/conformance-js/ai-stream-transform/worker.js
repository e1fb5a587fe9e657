/** Rewrites the events of a model into bare words, a line each. */
function words() {
  let rest = "";
  return new TransformStream({
    transform(chunk, controller) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const { response } = JSON.parse(line.slice("data: ".length));
        if (response) controller.enqueue(`${response.trim()}\n`);
      }
    },
    flush(controller) {
      controller.enqueue(rest === "" ? "end\n" : "cut\n");
    },
  });
}

export default {
  async fetch(request, env) {
    const stream = await env.AI.run("slow", { prompt: "count", stream: true });
    const body = stream.pipeThrough(new TextDecoderStream()).pipeThrough(words()).pipeThrough(new TextEncoderStream());
    return new Response(body, { headers: { "content-type": "text/plain;charset=utf-8" } });
  },
};
