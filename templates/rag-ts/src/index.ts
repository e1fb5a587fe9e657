/** Answers questions about the notes of `notes.txt`: the closest notes are found by meaning and given to the model. */

import { type Source, closest } from "./notes";

interface Env {
  AI: Ai;
}

/** The aliases of wrangler.toml may let a smaller model answer to this name. */
const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

const BEST = 3;
const MAX_QUESTION = 2_000;

const USAGE =
  "Ask about the notes:\n" +
  "  /?q=when+is+the+workshop+open          the answer and its sources as JSON\n" +
  "  /?q=when+is+the+workshop+open&stream   the answer as it is written\n";

function conversation(question: string, sources: Source[]) {
  const notes = sources.map(({ text }) => `- ${text}`).join("\n");
  return [
    {
      role: "system",
      content: "Answer the question in one or two sentences, from the notes alone. Say so if they do not answer it.",
    },
    { role: "user", content: `Notes:\n${notes}\n\nQuestion: ${question}` },
  ];
}

/** The sources as one event before the model's own, so that a reader has them while the answer is written. */
function withSources(stream: ReadableStream<Uint8Array>, sources: Source[]): ReadableStream<Uint8Array> {
  const first = new TextEncoder().encode(`event: sources\ndata: ${JSON.stringify(sources)}\n\n`);
  return stream.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      start(controller) {
        controller.enqueue(first);
      },
    }),
  );
}

async function answer(env: Env, question: string, streamed: boolean): Promise<Response> {
  const sources = await closest(env.AI, question, BEST);
  const inputs = { messages: conversation(question, sources), max_tokens: 256 };
  if (streamed) {
    const stream = await env.AI.run(MODEL, { ...inputs, stream: true });
    return new Response(withSources(stream, sources), { headers: { "content-type": "text/event-stream" } });
  }
  const output = await env.AI.run(MODEL, inputs);
  return Response.json({ answer: output.response ?? "", sources });
}

export default {
  async fetch(request, env): Promise<Response> {
    const { searchParams } = new URL(request.url);
    const question = searchParams.get("q")?.trim() ?? "";
    if (question === "") return new Response(USAGE, { status: 400 });
    if (question.length > MAX_QUESTION) {
      return Response.json({ error: `A question has at most ${MAX_QUESTION} characters.` }, { status: 400 });
    }
    try {
      return await answer(env, question, searchParams.has("stream"));
    } catch (error) {
      console.error("no answer:", error);
      const busy = error instanceof Error && error.message.startsWith("3040:");
      return busy
        ? Response.json({ error: "Too many questions at once." }, { status: 429, headers: { "retry-after": "1" } })
        : Response.json({ error: "The model could not answer." }, { status: 502 });
    }
  },
} satisfies ExportedHandler<Env>;
