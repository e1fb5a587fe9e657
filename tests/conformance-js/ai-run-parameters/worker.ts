export default {
  async fetch(request, env): Promise<Response> {
    const output = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      prompt: "one two three four",
      max_tokens: 2,
      temperature: 0,
      top_p: 0.9,
      top_k: 40,
      seed: 7,
      repetition_penalty: 1.1,
      frequency_penalty: 0,
      presence_penalty: 0,
    });
    return Response.json(output);
  },
} satisfies ExportedHandler<{ AI: Ai }>;
