/** What comes in: documents and questions, checked, and the passages that documents are cut into. */

export interface Document {
  id: string;
  title: string;
  /** Where it comes from: an address, a file, a book. */
  source: string;
  text: string;
}

/** A piece of a document that is found and cited by itself. */
export interface Passage {
  document: string;
  title: string;
  source: string;
  /** Its place in the document, from 0. */
  number: number;
  /** How many passages the document has. */
  of: number;
  text: string;
}

export interface Question {
  question: string;
  stream: boolean;
}

const MAX_DOCUMENTS = 100;
/** Passages of a document. */
const MAX_PASSAGES = 100;
/** Characters of a passage: about 150 tokens, of which an encoder reads 512. */
const PASSAGE = 700;
const MAX_TITLE = 200;
const MAX_SOURCE = 500;
const MAX_QUESTION = 2_000;

/** A part of what vectors are called, which may have 64 bytes. */
const ID = /^[A-Za-z0-9._-]{1,48}$/;

/** A text without halves of characters, which neither a model nor a store takes. */
function textOf(value: unknown, longest: number): string | undefined {
  if (typeof value !== "string" || value.length > longest) return undefined;
  const text = value.toWellFormed().trim();
  return text === "" ? undefined : text;
}

export function readId(id: unknown): { id: string } | string {
  return typeof id === "string" && ID.test(id) ? { id } : "An id has 1 to 48 letters, digits, dots, dashes and underscores.";
}

function readDocument(value: unknown, at: number): Document | string {
  const { id, title, source, text } = (value ?? {}) as Record<string, unknown>;
  const known = readId(id);
  if (typeof known === "string") return `Document ${at}: ${known}`;
  const document = {
    id: known.id,
    title: textOf(title, MAX_TITLE),
    source: textOf(source, MAX_SOURCE),
    text: textOf(text, MAX_PASSAGES * PASSAGE),
  };
  if (document.title === undefined) return `Document ${known.id}: "title" has 1 to ${MAX_TITLE} characters.`;
  if (document.source === undefined) return `Document ${known.id}: "source" has 1 to ${MAX_SOURCE} characters.`;
  if (document.text === undefined) return `Document ${known.id}: "text" has 1 to ${MAX_PASSAGES * PASSAGE} characters.`;
  const whole = document as Document;
  return passagesOf(whole).length <= MAX_PASSAGES ? whole : `Document ${known.id} makes more than ${MAX_PASSAGES} passages.`;
}

/** A document or an array of them; or what is wrong. */
export function readDocuments(body: unknown): Document[] | string {
  const values: unknown[] = Array.isArray(body) ? body : [body];
  if (values.length === 0 || values.length > MAX_DOCUMENTS) return `A request has 1 to ${MAX_DOCUMENTS} documents.`;
  const documents: Document[] = [];
  for (const [at, value] of values.entries()) {
    const document = readDocument(value, at);
    if (typeof document === "string") return document;
    documents.push(document);
  }
  const ids = new Set(documents.map(({ id }) => id));
  return ids.size === documents.length ? documents : "Two documents have the same id.";
}

export function readQuestion(body: unknown): Question | string {
  const { question, stream } = (body ?? {}) as Record<string, unknown>;
  const text = textOf(question, MAX_QUESTION);
  return text === undefined ? `A question has 1 to ${MAX_QUESTION} characters.` : { question: text, stream: stream === true };
}

/** Cuts a text where sentences or paragraphs end, and a sentence that is too long anywhere. */
function cut(text: string): string[] {
  const sentences = text.split(/(?<=[.!?])\s+|\n\s*\n/u);
  const pieces = sentences.flatMap((sentence) => sentence.trim().match(new RegExp(`.{1,${PASSAGE}}`, "gsu")) ?? []);
  const passages: string[] = [];
  let current = "";
  for (const piece of pieces) {
    if (current !== "" && current.length + 1 + piece.length > PASSAGE) {
      passages.push(current);
      current = "";
    }
    current = current === "" ? piece : `${current} ${piece}`;
  }
  return current === "" ? passages : [...passages, current];
}

export function passagesOf({ id, title, source, text }: Document): Passage[] {
  const texts = cut(text);
  return texts.map((text, number) => ({ document: id, title, source, number, of: texts.length, text }));
}
