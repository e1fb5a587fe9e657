/** Answers questions about documents: they come in through a queue, lie in a vector index, and are cited in answers. */

import { answer } from "./answer";
import { type Passage, passagesOf, readDocuments, readId, readQuestion } from "./documents";
import { remove, store } from "./store";

export interface Env {
  AI: Ai;
  V: Vectorize;
  Q: Queue<Passage>;
}

/** Messages sent at once. Passages and their headings are bounded, so that this many fit what a batch may weigh. */
const AT_ONCE = 25;

/** Messages of one request: 40 calls of the queue, where a request may make 50. */
const MAX_MESSAGES = 1_000;

const MAX_BODY = 1_000_000;

const USAGE = `POST   /documents       takes {"id", "title", "source", "text"}, or an array of such documents
DELETE /documents/ID    removes a document
GET    /status          tells how many passages there are
GET    /ask?q=QUESTION  answers as JSON, and with &stream as it is written
POST   /ask             the same for {"question", "stream"}
`;

/** What is wrong with a request. */
class Refused extends Error {}

async function readBody(request: Request): Promise<unknown> {
  const text = await request.text();
  if (text.length > MAX_BODY) throw new Refused(`A request has at most ${MAX_BODY} characters.`);
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused("The body is no JSON.");
  }
}

/** A value that was read, or the reason that it was not. */
function accepted<T extends object>(read: T | string): T {
  if (typeof read === "string") throw new Refused(read);
  return read;
}

async function ingest(request: Request, env: Env): Promise<Response> {
  const documents = accepted(readDocuments(await readBody(request)));
  const messages = documents.flatMap(passagesOf).map((body) => ({ body }));
  if (messages.length > MAX_MESSAGES) throw new Refused(`A request makes at most ${MAX_MESSAGES} passages.`);
  for (let at = 0; at < messages.length; at += AT_ONCE) await env.Q.sendBatch(messages.slice(at, at + AT_ONCE));
  return Response.json({ documents: documents.length, passages: messages.length }, { status: 202 });
}

async function route(request: Request, env: Env): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  const [, first, id, ...more] = pathname.split("/");
  switch (more.length === 0 ? `${request.method} /${first}${id === undefined ? "" : "/ID"}` : "") {
    case "POST /documents":
      return ingest(request, env);
    case "DELETE /documents/ID": {
      const known = accepted(readId(id));
      const passages = await remove(env.V, known.id);
      if (passages === 0) return Response.json({ error: `There is no document ${known.id}.` }, { status: 404 });
      return Response.json({ removed: known.id, passages });
    }
    case "GET /status": {
      const { vectorCount, dimensions, processedUpToMutation } = await env.V.describe();
      return Response.json({ passages: vectorCount, dimensions, processedUpToMutation });
    }
    case "GET /ask": {
      const asked = { question: searchParams.get("q"), stream: searchParams.has("stream") };
      return answer(env, accepted(readQuestion(asked)));
    }
    case "POST /ask":
      return answer(env, accepted(readQuestion(await readBody(request))));
    case "GET /":
      return new Response(USAGE);
    default:
      return new Response(USAGE, { status: 404 });
  }
}

export default {
  async fetch(request, env): Promise<Response> {
    try {
      return await route(request, env);
    } catch (error) {
      if (error instanceof Refused) return Response.json({ error: error.message }, { status: 400 });
      console.error("failed:", error);
      const busy = error instanceof Error && error.message.startsWith("3040:");
      return busy
        ? Response.json({ error: "Too many questions at once." }, { status: 429, headers: { "retry-after": "1" } })
        : Response.json({ error: "The request could not be answered." }, { status: 502 });
    }
  },

  /** A batch is stored as a whole. What this throws has it delivered again, and in the end put aside. */
  async queue(batch, env): Promise<void> {
    const passages = batch.messages.map(({ body }) => body);
    await store(env, passages);
    console.log(`stored ${passages.length} passages`);
  },
} satisfies ExportedHandler<Env, Passage>;
