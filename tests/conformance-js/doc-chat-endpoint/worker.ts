interface Env {
  AI: Ai;
}

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

async function chat(request: Request, env: Env): Promise<Response> {
  const { messages = [] } = await request.json<{ messages?: Message[] }>();
  if (!messages.some((message) => message.role === "system")) {
    messages.unshift({ role: "system", content: "You are a helpful, friendly assistant." });
  }
  return env.AI.run(MODEL, { messages, max_tokens: 1024, stream: true }, { returnRawResponse: true });
}

export default {
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname !== "/api/chat") return new Response("Not found", { status: 404 });
    if (request.method !== "POST") return new Response("Method not allowed", { status: 405 });
    try {
      return await chat(request, env);
    } catch (error) {
      console.error("chat failed:", error);
      return Response.json({ error: "The question could not be answered" }, { status: 500 });
    }
  },
} satisfies ExportedHandler<Env>;
