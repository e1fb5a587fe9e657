export default {
  async fetch(request, env) {
    const prompts = ["a", "b", "c", "d"];
    const outputs = await Promise.all(prompts.map((prompt) => env.AI.run("slow", { prompt, max_tokens: 3 })));
    return Response.json(outputs.map((output) => output.response));
  },
};
