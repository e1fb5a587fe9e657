export default {
  async fetch(request, env) {
    const stream = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "you said it", stream: true });
    const isStream = stream instanceof ReadableStream;
    const reader = stream.getReader();
    const decoder = new TextDecoder();
    let text = "";
    let bytesOnly = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      bytesOnly &&= value instanceof Uint8Array;
      text += decoder.decode(value, { stream: true });
    }
    const events = text
      .split("\n\n")
      .filter((event) => event.startsWith("data: "))
      .map((event) => event.slice("data: ".length));
    const done = events.pop();
    const parsed = events.map((event) => JSON.parse(event));
    return Response.json({
      isStream,
      bytesOnly,
      done,
      response: parsed.map((event) => event.response).join(""),
      padded: parsed.slice(0, -1).every((event) => typeof event.p === "string" && event.p.length > 0),
      usage: parsed.at(-1).usage,
    });
  },
};
