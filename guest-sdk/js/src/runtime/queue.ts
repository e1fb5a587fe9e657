// Queues: `env.Q`, which sends, and the batch that a `queue` handler gets. Bodies travel as texts; the rules about what
// becomes of a message are kept here up to the point where the host has one word for each, and the host does the rest.

import { call } from "./call";
import { logWarning } from "./console";
import { bytesOf } from "./natives";

type ContentType = "json" | "text" | "bytes";

interface Message {
  body: string;
  contentType: ContentType;
  delaySeconds?: number;
}

interface Metrics {
  backlogCount: number;
  backlogBytes: number;
  oldestMessageTimestamp?: number | Date;
}

/** More than a message may have, so that what cannot be sent is not made into a text first. */
const MAX_BYTES = 128_000;
const MAX_BATCH = 100;

/** `env.Q`. */
export class Queue {
  readonly #binding: string;

  constructor(binding: string) {
    this.#binding = binding;
  }

  async send(body: unknown, options?: { contentType?: string; delaySeconds?: number } | null): Promise<unknown> {
    const message = encode(body, options?.contentType, options?.delaySeconds);
    return { metadata: { metrics: dated(await call(this.#binding, "send", [message])) } };
  }

  async sendBatch(
    messages: Iterable<{ body: unknown; contentType?: string; delaySeconds?: number }>,
    options?: { delaySeconds?: number } | null,
  ): Promise<unknown> {
    const encoded: Message[] = [];
    for (const { body, contentType, delaySeconds } of messages) {
      if (encoded.length === MAX_BATCH) {
        throw new Error(`Queue sendBatch failed: batch message count exceeds limit of ${MAX_BATCH}`);
      }
      encoded.push(encode(body, contentType, delaySeconds));
    }
    const values = [encoded, { delaySeconds: delay(options?.delaySeconds) }];
    return { metadata: { metrics: dated(await call(this.#binding, "sendBatch", values)) } };
  }

  async metrics(): Promise<unknown> {
    return dated(await call(this.#binding, "metrics", []));
  }
}

function dated(answer: unknown): Metrics {
  const metrics = answer as Metrics;
  if (metrics.oldestMessageTimestamp !== undefined) {
    metrics.oldestMessageTimestamp = new Date(metrics.oldestMessageTimestamp);
  }
  return metrics;
}

/** What no number is becomes null in JSON, which the host refuses by name. */
function delay(delaySeconds: unknown): number | undefined {
  return delaySeconds === undefined || delaySeconds === null ? undefined : Number(delaySeconds);
}

function encode(body: unknown, contentType: unknown, delaySeconds: unknown): Message {
  const type = contentType ?? "json";
  const refuse = (what: string) => new TypeError(`Content Type "${type}" requires a value of ${what}, but received: ${typeof body}`);
  let text: string | undefined;
  if (type === "json") {
    text = JSON.stringify(body);
    if (text === undefined) throw refuse("a type that JSON has");
  } else if (type === "text") {
    if (typeof body !== "string") throw refuse("type string");
    text = body;
  } else if (type === "bytes") {
    const bytes = bytesOf(body);
    if (!bytes) throw refuse("type ArrayBufferView");
    if (bytes.length > MAX_BYTES) {
      throw new Error(`Queue send failed: message length of ${bytes.length} bytes exceeds limit of ${MAX_BYTES}`);
    }
    text = toBase64(bytes);
  } else if (type === "v8") {
    throw new TypeError('Content Type "v8" is not supported: this host has no V8. Send "json", "text" or "bytes".');
  } else {
    throw new TypeError(`Unsupported queue message content type: ${String(type)}`);
  }
  return { body: text, contentType: type as ContentType, delaySeconds: delay(delaySeconds) };
}

function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return btoa(text);
}

function fromBase64(text: string): Uint8Array {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

type Decision = "ack" | { retry: { delaySeconds?: number } };

/** What the host sends for a `queue` event. */
interface Payload {
  queue: string;
  metrics: Metrics;
  messages: { id: string; timestamp: number; attempts: number; contentType: ContentType; body: string }[];
}

/** What has been said of a batch. Of each message, and of the batch as a whole, the first word counts. */
class Decisions {
  batch: Decision | undefined;
  readonly messages: Record<string, Decision> = Object.create(null) as Record<string, Decision>;

  ofMessage(id: string, decision: Decision): void {
    const name = nameOf(decision);
    if (this.batch !== undefined) {
      const all = `${nameOf(this.batch)}All`;
      return logWarning(
        `Received a call to ${name}() on message ${id} after ${all}() was already called. Calling ${name}() on a message after calling ${all}() has no effect.`,
      );
    }
    const before = this.messages[id];
    if (before === undefined) this.messages[id] = decision;
    else if (nameOf(before) !== name) {
      logWarning(
        `Received a call to ${name}() on message ${id} after ${nameOf(before)}() was already called. Calling ${name}() on a message after calling ${nameOf(before)}() has no effect.`,
      );
    }
  }

  ofBatch(decision: Decision): void {
    if (this.batch === undefined) this.batch = decision;
    else if (nameOf(this.batch) !== nameOf(decision)) {
      const [now, before] = [`${nameOf(decision)}All`, `${nameOf(this.batch)}All`];
      logWarning(
        `Received a call to ${now}() after ${before}() was already called. Calling ${now}() after calling ${before}() has no effect.`,
      );
    }
  }
}

function nameOf(decision: Decision): string {
  return decision === "ack" ? "ack" : "retry";
}

function retry(options?: { delaySeconds?: number } | null): Decision {
  return { retry: { delaySeconds: delay(options?.delaySeconds) } };
}

function decode(contentType: ContentType, body: string): unknown {
  if (contentType === "json") return JSON.parse(body);
  return contentType === "bytes" ? fromBase64(body) : body;
}

/** One message of a batch. */
class QueueMessage {
  readonly id: string;
  readonly timestamp: Date;
  readonly attempts: number;
  readonly body: unknown;
  readonly #decisions: Decisions;

  constructor(message: Payload["messages"][number], decisions: Decisions) {
    this.id = message.id;
    this.timestamp = new Date(message.timestamp);
    this.attempts = message.attempts;
    this.body = decode(message.contentType, message.body);
    this.#decisions = decisions;
  }

  ack(): void {
    this.#decisions.ofMessage(this.id, "ack");
  }

  retry(options?: { delaySeconds?: number } | null): void {
    this.#decisions.ofMessage(this.id, retry(options));
  }
}

/** What a `queue` handler gets. */
export class MessageBatch {
  readonly queue: string;
  readonly messages: readonly QueueMessage[];
  readonly metadata: { metrics: Metrics };
  readonly #decisions = new Decisions();

  constructor(payload: Payload) {
    this.queue = payload.queue;
    this.metadata = { metrics: dated(payload.metrics) };
    this.messages = payload.messages.map((message) => new QueueMessage(message, this.#decisions));
  }

  ackAll(): void {
    this.#decisions.ofBatch("ack");
  }

  retryAll(options?: { delaySeconds?: number } | null): void {
    this.#decisions.ofBatch(retry(options));
  }

  /** What the host is told, with what the handler threw. */
  static answer(batch: MessageBatch, threw?: string): string {
    const { batch: all, messages } = batch.#decisions;
    return JSON.stringify({ threw, batch: all, messages });
  }
}
