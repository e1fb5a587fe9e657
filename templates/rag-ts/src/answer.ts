/** Has the model answer a question from the passages that were found, which it is given with their numbers. */

import type { Question } from "./documents";
import type { Env } from "./index";
import { type Found, closest } from "./store";

/** What an answer stands on. `[1]` in the answer is the first of them. */
type Citation = Omit<Found, "text">;

/** The aliases of wrangler.toml may let a smaller model answer to this name. */
const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

const BEST = 3;
const MAX_TOKENS = 200;

function conversation(question: string, found: Found[]) {
  const passages = found.map(({ title, text }, at) => `[${at + 1}] ${title}: ${text}`).join("\n\n");
  return [
    {
      role: "system",
      content:
        "Answer the question in one or two sentences, from the passages alone, and put the number of each passage that " +
        "you use behind the sentence, like [1]. Say so if they do not answer it.",
    },
    { role: "user", content: `Passages:\n${passages}\n\nQuestion: ${question}` },
  ];
}

/** The citations as one event before the model's own, so that a reader has them while the answer is written. */
function withCitations(stream: ReadableStream<Uint8Array>, citations: Citation[]): ReadableStream<Uint8Array> {
  const first = new TextEncoder().encode(`event: citations\ndata: ${JSON.stringify(citations)}\n\n`);
  return stream.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      start(controller) {
        controller.enqueue(first);
      },
    }),
  );
}

export async function answer(env: Env, { question, stream }: Question): Promise<Response> {
  const found = await closest(env, question, BEST);
  if (found.length === 0) return Response.json({ error: "There are no documents yet." }, { status: 404 });
  const citations = found.map(({ id, source, title, score }) => ({ id, source, title, score }));
  const inputs = { messages: conversation(question, found), max_tokens: MAX_TOKENS };
  if (stream) {
    const events = await env.AI.run(MODEL, { ...inputs, stream: true });
    return new Response(withCitations(events, citations), { headers: { "content-type": "text/event-stream" } });
  }
  const output = await env.AI.run(MODEL, inputs);
  return Response.json({ answer: output.response ?? "", citations });
}
