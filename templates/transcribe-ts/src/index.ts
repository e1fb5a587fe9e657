/** Serves the page of `public/` and writes down what is said in the sound that it sends. */

interface Env {
  AI: Ai;
  ASSETS: Fetcher;
}

/** The binding file's aliases may let a smaller model answer to this name. */
const MODEL = "@cf/openai/whisper";

async function transcribe(request: Request, env: Env): Promise<Response> {
  const audio = [...new Uint8Array(await request.arrayBuffer())];
  if (audio.length === 0) return Response.json({ error: "The sound is empty." }, { status: 400 });
  return Response.json(await env.AI.run(MODEL, { audio }));
}

export default {
  async fetch(request, env): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname !== "/api/transcribe") return env.ASSETS.fetch(request);
    if (request.method !== "POST") {
      return Response.json({ error: "Use POST." }, { status: 405, headers: { allow: "POST" } });
    }
    try {
      return await transcribe(request, env);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      console.error("transcribing failed:", error);
      // 5006: the sound cannot be read.
      return Response.json({ error: message }, { status: message.startsWith("5006:") ? 400 : 502 });
    }
  },
} satisfies ExportedHandler<Env>;
