/** Serves the page of `public/` and answers its questions, word by word as they are written. */

import { InputError, readMessages } from "./messages";

interface Env {
  AI: Ai;
  ASSETS: Fetcher;
}

/** The binding file's aliases may let a smaller model answer to this name. */
const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

const SYSTEM = "You are a friendly assistant. Answer in a few sentences.";

async function chat(request: Request, env: Env): Promise<Response> {
  const messages = [{ role: "system", content: SYSTEM }, ...(await readMessages(request))];
  // Returned as the body, the stream goes to the client directly, and ends with its reader.
  const stream = await env.AI.run(MODEL, { messages, max_tokens: 512, stream: true });
  return new Response(stream, {
    headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store" },
  });
}

/** What a model's refusals, `CODE: description`, mean to the page. */
function refusal(error: unknown): Response {
  const message = error instanceof Error ? error.message : String(error);
  console.error("chat failed:", error);
  if (message.startsWith("3040:")) {
    return Response.json(
      { error: "Too many questions at once. Please try again." },
      { status: 429, headers: { "retry-after": "1" } },
    );
  }
  if (message.startsWith("5021:")) {
    return Response.json({ error: "The conversation has become too long. Please start a new one." }, { status: 413 });
  }
  return Response.json({ error: "The model could not answer." }, { status: 502 });
}

export default {
  async fetch(request, env): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname !== "/api/chat") return env.ASSETS.fetch(request);
    if (request.method !== "POST") {
      return Response.json({ error: "Use POST." }, { status: 405, headers: { allow: "POST" } });
    }
    try {
      return await chat(request, env);
    } catch (error) {
      if (error instanceof InputError) return Response.json({ error: error.message }, { status: 400 });
      return refusal(error);
    }
  },
} satisfies ExportedHandler<Env>;
