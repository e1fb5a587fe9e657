// Reads an event out of a text: whatever the model makes of it, the answer has the shape of the schema.

const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

const LONGEST = 4000;

const SCHEMA = {
  type: "object",
  properties: {
    title: { type: "string", maxLength: 80 },
    place: { type: "string", maxLength: 80 },
    weekday: { enum: ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "unknown"] },
    hour: { type: "integer", minimum: 0, maximum: 23 },
    people: { type: "array", items: { type: "string", maxLength: 40 }, maxItems: 8 },
  },
  required: ["title", "place", "weekday", "hour", "people"],
  additionalProperties: false,
} as const;

const USAGE = `Send a text about an event:
  curl -d 'Lunch with Ada and Grace at the harbour on Friday at one' http://extract.localhost:8787/
`;

export default {
  async fetch(request, env): Promise<Response> {
    if (request.method !== "POST") return new Response(USAGE, { status: 405, headers: { allow: "POST" } });
    const text = (await request.text()).trim();
    if (text === "" || text.length > LONGEST) {
      return new Response(`The text must have 1 to ${LONGEST} characters.\n${USAGE}`, { status: 400 });
    }
    const { response } = await env.AI.run(MODEL, {
      messages: [
        { role: "system", content: "Extract the event from the user's text as JSON. Hours are of 24." },
        { role: "user", content: text },
      ],
      response_format: { type: "json_schema", json_schema: SCHEMA },
      temperature: 0,
      max_tokens: 512,
    });
    return Response.json(response);
  },
} satisfies ExportedHandler<{ AI: Ai }>;
