// `env.AI`: what Cloudflare's binding offers, over the wire that it speaks, to the engine inside the host.

import { HELD, bodyOf, send } from "./fetch";
import { AiGateway } from "./gateway";
import { NativeHeaders, bytesOf, type NativeResponse } from "./natives";
import { Response, fromNative } from "./response";
import { refuseInGlobalScope } from "./state";

/** An answer of the engine that is an error. The name is the engine's: `AiError`. */
export class InferenceUpstreamError extends Error {
  constructor(message: string, name = "InferenceUpstreamError") {
    super(message);
    this.name = name;
  }
}

/** What the binding itself refuses, before the engine is asked. */
export class AiInternalError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "AiInternalError";
  }
}

interface RunOptions {
  signal?: AbortSignal;
  extraHeaders?: Record<string, string>;
  prefix?: string;
  returnRawResponse?: boolean;
  sessionOptions?: { extraHeaders?: Record<string, string> };
  [option: string]: unknown;
}

/** A property that travels as the bytes of the request, not as JSON. */
interface Binary {
  property: string;
  body: Uint8Array | Blob | ReadableStream;
  type: string;
}

const NAME = Symbol("name");

export class Ai {
  declare private [NAME]: string;
  /** The engine's id of the last call. */
  lastRequestId: string | null = null;
  /** The gateway's id of the last call, if it went through one. */
  aiGatewayLogId: string | null = null;

  constructor(name: string) {
    Object.defineProperty(this, NAME, { value: name });
  }

  async run(model: string, inputs: unknown, options?: RunOptions | null): Promise<unknown> {
    refuseInGlobalScope();
    if (typeof model !== "string") throw new TypeError("The first argument of run() is the name of a model.");
    const { signal, extraHeaders, prefix, returnRawResponse, sessionOptions, ...wire } = options ?? {};
    if (signal?.aborted) throw abortError();
    const headers = new NativeHeaders({ ...sessionOptions?.extraHeaders, ...extraHeaders });
    headers.set("cf-consn-model-id", prefix ? `${prefix}:${model}` : model);
    const { query, body } = await encode(inputs, wire, headers);
    const url = `${INTERNAL}/binding/${encodeURIComponent(this[NAME])}/run?version=3${query}`;
    const native = await send(url, { method: "POST", headers, body, signal: signal ?? null }, abortError);
    this.lastRequestId = native.headers.get("cf-ai-req-id");
    this.aiGatewayLogId = native.headers.get("cf-aig-log-id");
    const response = fromNative(native, bodyOf(native, signal ?? null, abortError), "", false, HELD);
    return returnRawResponse ? response : result(native, response);
  }

  /** The models that this host knows. */
  async models(params: Record<string, unknown> = {}): Promise<unknown> {
    refuseInGlobalScope();
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(params)) {
      if (value !== undefined && value !== null) query.append(name, String(value));
    }
    const url = `${INTERNAL}/binding/${encodeURIComponent(this[NAME])}/models?${query}`;
    const native = await send(url, { method: "GET", headers: new NativeHeaders(), body: null, signal: null });
    return result(native, fromNative(native, bodyOf(native, null), "", false, HELD));
  }

  toMarkdown(): never {
    throw new Error("env.AI.toMarkdown() is not supported: this host does not convert documents.");
  }

  gateway(id: string): AiGateway {
    if (typeof id !== "string" || id === "") throw new TypeError("gateway() takes the id of a gateway.");
    return new AiGateway(this[NAME], id);
  }

  autorag(): never {
    throw new Error("env.AI.autorag() is not supported: this host has no AI Search.");
  }
}

function abortError(): DOMException {
  return new DOMException("The operation was aborted", "AbortError");
}

async function result(native: NativeResponse, response: Response): Promise<unknown> {
  if (!response.ok) throw await upstreamError(response);
  return native.headers.get("content-type") === "application/json" ? response.json() : response.body;
}

async function upstreamError(response: Response): Promise<InferenceUpstreamError> {
  const text = await response.text();
  try {
    const { internalCode, description, name } = JSON.parse(text) as Record<string, string>;
    if (internalCode !== undefined) return new InferenceUpstreamError(`${internalCode}: ${description}`, name);
  } catch {
    // Not the engine's words: what they are is the message.
  }
  return new InferenceUpstreamError(text);
}

/** The body of a call. One binary input travels as it is; several become arrays of numbers in the JSON. Of streams there
 * may be one, and its type has to be said, as on the platform. */
async function encode(
  inputs: unknown,
  options: object,
  headers: NativeHeaders,
): Promise<{ query: string; body: BodyInit }> {
  const bare = binary("", inputs);
  const entries = bare || typeof inputs !== "object" || inputs === null ? [] : Object.entries(inputs);
  const binaries = bare
    ? [bare]
    : entries.map(([name, value]) => binary(name, value)).filter((found) => found !== undefined);
  refuseStreams(binaries);
  const [only] = binaries;
  if (only && binaries.length === 1) {
    const rest = Object.fromEntries(entries.filter(([name]) => name !== only.property));
    headers.set("content-type", only.type);
    headers.set("x-input-property", headerText(only.property));
    const query = `&userInputs=${encodeURIComponent(JSON.stringify({ inputs: rest, options }))}`;
    return { query, body: only.body as unknown as BodyInit };
  }
  let json = inputs;
  if (binaries.length > 1) {
    const copy: Record<string, unknown> = Object.fromEntries(entries);
    for (const { property, body } of binaries) copy[property] = Array.from(await bytesIn(body));
    json = copy;
  }
  headers.set("content-type", "application/json");
  return { query: "", body: JSON.stringify({ inputs: json, options }) };
}

function refuseStreams(binaries: Binary[]): void {
  const streams = binaries.filter(({ body }) => body instanceof ReadableStream);
  if (streams.length > 1) {
    const keys = streams.map(({ property }) => property).join(", ");
    throw new AiInternalError(`Multiple ReadableStreams are not supported. Found streams in keys: [${keys}]`);
  }
  if (streams[0]?.type === "") throw new AiInternalError("Content-Type is required with ReadableStream inputs");
}

function headerText(property: string): string {
  if (!/^[\x21-\x7e]*$/.test(property)) throw new TypeError(`${JSON.stringify(property)} cannot name a binary input.`);
  return property;
}

function binary(property: string, value: unknown): Binary | undefined {
  const plain = carrier(value);
  if (plain instanceof ReadableStream && property !== "") return { property, body: plain, type: "" };
  if (plain)
    return { property, body: plain, type: (value instanceof Blob && value.type) || "application/octet-stream" };
  if (typeof value !== "object" || value === null || !("body" in value)) return undefined;
  const body = carrier(value.body);
  const type = "contentType" in value ? String(value.contentType ?? "") : "";
  if (!body || (type === "" && !(body instanceof ReadableStream))) return undefined;
  return { property, body, type };
}

function carrier(value: unknown): Binary["body"] | undefined {
  return value instanceof Blob || value instanceof ReadableStream ? value : bytesOf(value);
}

async function bytesIn(body: Binary["body"]): Promise<Uint8Array> {
  return body instanceof Uint8Array ? body : new Uint8Array(await new Response(body).arrayBuffer());
}
