/** Passages in the vector index: how they are written, found and removed. */

import type { Env } from "./index";
import type { Passage } from "./documents";

/** A passage that was found, as an answer cites it. */
export interface Found {
  id: string;
  title: string;
  source: string;
  text: string;
  /** The cosine of the angle between question and passage: 1 for the same direction. */
  score: number;
}

const MODEL = "@cf/baai/bge-small-en-v1.5";

/** bge's encoders expect this before a question, and nothing before the texts it is compared with. */
const QUERY_PREFIX = "Represent this sentence for searching relevant passages: ";

/** Ids that are asked for at once. */
const MAX_GET = 20;

const idOf = (document: string, number: number) => `${document}#${number}`;

async function embed(ai: Ai, texts: string[]): Promise<number[][]> {
  const output = await ai.run(MODEL, { text: texts, pooling: "cls" });
  if (!("data" in output) || output.data?.length !== texts.length) {
    throw new Error(`the model gave no vector for each of ${texts.length} texts`);
  }
  return output.data;
}

/** How many passages each of some documents has in the index. Their first ones know. */
async function lengths(index: Vectorize, documents: string[]): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  for (let at = 0; at < documents.length; at += MAX_GET) {
    const ids = documents.slice(at, at + MAX_GET).map((document) => idOf(document, 0));
    for (const { metadata } of await index.getByIds(ids)) {
      found.set(String(metadata?.document), Number(metadata?.of) || 0);
    }
  }
  return found;
}

function idsFrom(document: string, from: number, to: number): string[] {
  return Array.from({ length: Math.max(to - from, 0) }, (_, at) => idOf(document, from + at));
}

/**
 * Writes passages. A message may come more than once and documents may come again, so all of this can be repeated: a
 * passage replaces the one of its id, and what a longer version of a document has left goes before its first passage
 * says that it is shorter.
 */
export async function store({ AI, V }: Pick<Env, "AI" | "V">, passages: Passage[]): Promise<void> {
  const latest = [...new Map(passages.map((passage) => [idOf(passage.document, passage.number), passage]))];
  const vectors = await embed(AI, latest.map(([, { title, text }]) => `${title}\n${text}`));
  const firsts = latest.map(([, passage]) => passage).filter(({ number }) => number === 0);
  const before = await lengths(V, firsts.map(({ document }) => document));
  const left = firsts.flatMap(({ document, of }) => idsFrom(document, of, before.get(document) ?? 0));
  if (left.length > 0) await V.deleteByIds(left);
  await V.upsert(latest.map(([id, passage], at) => ({ id, values: vectors[at], metadata: { ...passage } })));
}

/** Removes a document and tells how many passages it had. */
export async function remove(index: Vectorize, document: string): Promise<number> {
  const length = (await lengths(index, [document])).get(document) ?? 0;
  if (length > 0) await index.deleteByIds(idsFrom(document, 0, length));
  return length;
}

/** The passages closest to a question, the closest first. */
export async function closest({ AI, V }: Pick<Env, "AI" | "V">, question: string, count: number): Promise<Found[]> {
  const [vector] = await embed(AI, [QUERY_PREFIX + question]);
  const { matches } = await V.query(vector, { topK: count, returnMetadata: "all" });
  return matches.map(({ id, score, metadata }) => ({
    id,
    title: String(metadata?.title),
    source: String(metadata?.source),
    text: String(metadata?.text),
    score: Math.round(score * 1e4) / 1e4,
  }));
}
