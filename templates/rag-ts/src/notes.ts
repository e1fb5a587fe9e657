/** The notes and their vectors, and which of them lie closest to a question. */

import text from "./notes.txt";
import { cosine } from "./vector";

export interface Source {
  text: string;
  /** The cosine of the angle between question and note: 1 for the same direction. */
  score: number;
}

const MODEL = "@cf/baai/bge-small-en-v1.5";

/** bge's encoders expect this before a question, and nothing before the texts it is compared with. */
const QUERY_PREFIX = "Represent this sentence for searching relevant passages: ";

/** One note a line. */
const NOTES = text.split("\n").filter((line) => line.trim() !== "");

/** The notes' vectors. Globals outlive a request, so they are made by the first and used by all that follow. */
let vectors: Promise<number[][]> | undefined;

async function embed(ai: Ai, texts: string[]): Promise<number[][]> {
  const output = await ai.run(MODEL, { text: texts, pooling: "cls" });
  if (!("data" in output) || output.data?.length !== texts.length) {
    throw new Error(`the model gave no vector for each of ${texts.length} texts`);
  }
  return output.data;
}

function noteVectors(ai: Ai): Promise<number[][]> {
  vectors ??= embed(ai, NOTES).catch((error) => {
    // The next request tries again; a failure is not worth keeping.
    vectors = undefined;
    throw error;
  });
  return vectors;
}

export async function closest(ai: Ai, question: string, count: number): Promise<Source[]> {
  const [notes, [query]] = await Promise.all([noteVectors(ai), embed(ai, [QUERY_PREFIX + question])]);
  return notes
    .map((vector, index) => ({ text: NOTES[index], score: Math.round(cosine(vector, query) * 1e4) / 1e4 }))
    .sort((a, b) => b.score - a.score)
    .slice(0, count);
}
