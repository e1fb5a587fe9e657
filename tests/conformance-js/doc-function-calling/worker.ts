export interface Env {
  AI: Ai;
}

const TOOLS = [
  {
    name: "getWeather",
    description: "Return the weather for a latitude and longitude",
    parameters: {
      type: "object" as const,
      properties: {
        latitude: { type: "string", description: "The latitude for the given location" },
        longitude: { type: "string", description: "The longitude for the given location" },
      },
      required: ["latitude", "longitude"],
    },
  },
];

export default {
  async fetch(_request, env): Promise<Response> {
    // The model of this case says what it is told, so that it is known what it calls.
    const call = '<tool_call>\n{"name": "getWeather", "arguments": {"latitude": "51.5", "longitude": "-0.1"}}\n</tool_call>';
    const answer = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      messages: [{ role: "user", content: call }],
      tools: TOOLS,
    });
    const after = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", {
      messages: [
        { role: "user", content: "What is the weather in London?" },
        { role: "assistant", content: JSON.stringify((answer as { tool_calls: unknown[] }).tool_calls[0]) },
        { role: "tool", content: "It rains.", name: "getWeather" } as never,
      ],
      tools: TOOLS,
    });
    return Response.json({ answer, after });
  },
} satisfies ExportedHandler<Env>;
