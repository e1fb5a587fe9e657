/** Serves the page of `public/` and gives the vectors of pictures and texts that the page compares. Keeps nothing. */

/** The task `image-embeddings` is the host's own, so its types are given here. */
interface Compares {
  run(model: string, inputs: { image: Uint8Array } | { text: string }): Promise<{ shape: number[]; data: number[][] }>;
}

interface Env {
  AI: Compares;
  ASSETS: Fetcher;
}

const MODEL = "clip-vit-large-patch14";

const MOST_BYTES = 32 * 1024 * 1024;
const LONGEST_TEXT = 300;

const refuse = (status: number, error: string, headers = {}) => Response.json({ error }, { status, headers });

async function picture(request: Request, env: Env): Promise<Response> {
  if (request.method !== "POST") return refuse(405, "Use POST.", { allow: "POST" });
  const image = new Uint8Array(await request.arrayBuffer());
  if (image.length === 0) return refuse(400, "The picture is empty.");
  if (image.length > MOST_BYTES) return refuse(413, "A picture has at most 32 MiB.");
  return vector(env, { image });
}

async function text(url: URL, env: Env): Promise<Response> {
  const text = url.searchParams.get("q")?.trim() ?? "";
  if (text === "" || text.length > LONGEST_TEXT) {
    return refuse(400, `Give a text of 1 to ${LONGEST_TEXT} characters.`);
  }
  return vector(env, { text });
}

async function vector(env: Env, inputs: { image: Uint8Array } | { text: string }): Promise<Response> {
  const { data } = await env.AI.run(MODEL, inputs);
  return Response.json({ vector: data[0] });
}

/** What the model said, as a status: 3046 is that it is not here, 3040 that too many wait, 5006 a bad input. */
function failed(error: unknown): Response {
  const message = error instanceof Error ? error.message : String(error);
  if (message.startsWith("5006:")) return refuse(400, message);
  if (message.startsWith("3040:")) return refuse(429, "Too many pictures at once.", { "retry-after": "1" });
  console.error("comparing failed:", error);
  return refuse(message.startsWith("3046:") ? 503 : 502, message);
}

export default {
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    try {
      switch (url.pathname) {
        case "/api/picture":
          return await picture(request, env);
        case "/api/text":
          return await text(url, env);
        default:
          return env.ASSETS.fetch(request);
      }
    } catch (error) {
      return failed(error);
    }
  },
} satisfies ExportedHandler<Env>;
