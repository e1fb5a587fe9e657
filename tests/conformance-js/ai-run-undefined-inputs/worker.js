export default {
  async fetch(request, env) {
    const output = await env.AI.run("@cf/meta/llama-3.1-8b-instruct", {
      prompt: "kept",
      max_tokens: undefined,
      tools: undefined,
    });
    return Response.json(output);
  },
};
