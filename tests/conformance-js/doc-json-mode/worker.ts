export interface Env {
  AI: Ai;
}

export default {
  async fetch(_request, env): Promise<Response> {
    const answer = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      messages: [{ role: "user", content: '{"name": "India", "capital": "New Delhi", "languages": ["Hindi", "English"]}' }],
      response_format: {
        type: "json_schema",
        json_schema: {
          type: "object",
          properties: {
            name: { type: "string" },
            capital: { type: "string" },
            languages: { type: "array", items: { type: "string" } },
          },
          required: ["name", "capital", "languages"],
        },
      },
    });
    return Response.json(answer);
  },
} satisfies ExportedHandler<Env>;
