/** The aliases of wrangler.toml may let a smaller model answer to this name. */
const MODEL = "@cf/meta/llama-3.1-8b-instruct";

const SYSTEM = { role: "system", content: "You are a friendly assistant. Answer in a few sentences." };

const USAGE = `Ask something:
  GET  /?q=why+is+the+sky+blue          the answer as JSON
  GET  /?q=why+is+the+sky+blue&stream   the answer as it is written
  POST /chat {"messages": [{"role": "user", "content": "…"}]}
`;

function isMessage(value) {
  return ["system", "user", "assistant"].includes(value?.role) && typeof value.content === "string";
}

/** The conversation in a request's body; undefined if it is none. */
async function conversation(request) {
  const body = await request.json().catch(() => null);
  const messages = body?.messages;
  return Array.isArray(messages) && messages.length > 0 && messages.every(isMessage) ? messages : undefined;
}

/** Returned as the body, a model's stream goes to the client directly, and ends with its reader. */
async function stream(env, messages) {
  const events = await env.AI.run(MODEL, { messages: [SYSTEM, ...messages], stream: true });
  return new Response(events, { headers: { "content-type": "text/event-stream" } });
}

async function route(request, env) {
  const url = new URL(request.url);
  if (url.pathname === "/chat" && request.method === "POST") {
    const messages = await conversation(request);
    return messages ? stream(env, messages) : new Response(USAGE, { status: 400 });
  }
  const question = url.searchParams.get("q")?.trim();
  if (!question) return new Response(USAGE, { status: 400 });
  const messages = [{ role: "user", content: question }];
  if (url.searchParams.has("stream")) return stream(env, messages);
  return Response.json(await env.AI.run(MODEL, { messages: [SYSTEM, ...messages] }));
}

export default {
  async fetch(request, env) {
    try {
      return await route(request, env);
    } catch (error) {
      console.error("no answer:", error);
      return Response.json({ error: "The model could not answer." }, { status: 502 });
    }
  },
};
