/** Serves the page of `public/` and draws what it asks for. */

interface Env {
  AI: Ai;
  ASSETS: Fetcher;
}

/** The binding file's aliases may let a smaller model answer to this name. */
const MODEL = "@cf/bytedance/stable-diffusion-xl-lightning";

const LONGEST_PROMPT = 500;
const MOST_STEPS = 20;

async function draw(url: URL, env: Env): Promise<Response> {
  const prompt = url.searchParams.get("prompt")?.trim() ?? "";
  const seed = Number(url.searchParams.get("seed") ?? "1");
  const steps = Number(url.searchParams.get("steps") ?? MOST_STEPS);
  if (prompt === "" || prompt.length > LONGEST_PROMPT) {
    return Response.json({ error: `Give a prompt of 1 to ${LONGEST_PROMPT} characters.` }, { status: 400 });
  }
  if (!Number.isSafeInteger(seed) || seed < 0) {
    return Response.json({ error: "The seed must be a whole number." }, { status: 400 });
  }
  if (!Number.isInteger(steps) || steps < 1 || steps > MOST_STEPS) {
    return Response.json({ error: `The steps must be a whole number from 1 to ${MOST_STEPS}.` }, { status: 400 });
  }
  // The stream goes to the client as it is.
  const picture = await env.AI.run(MODEL, { prompt, seed, guidance: 3, num_steps: steps });
  return new Response(picture, { headers: { "content-type": "image/png", "cache-control": "no-store" } });
}

export default {
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname !== "/api/draw") return env.ASSETS.fetch(request);
    try {
      return await draw(url, env);
    } catch (error) {
      console.error("drawing failed:", error);
      return Response.json({ error: error instanceof Error ? error.message : String(error) }, { status: 502 });
    }
  },
} satisfies ExportedHandler<Env>;
