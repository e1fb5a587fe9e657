export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const options = { returnRawResponse: pathname === "/raw" };
    const output = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a b", stream: true }, options);
    if (pathname === "/raw") return new Response(output.body, output);
    if (pathname === "/read") return new Response(output.pipeThrough(new TransformStream()));
    return new Response(output);
  },
};
