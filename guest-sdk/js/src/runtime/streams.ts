// Streams that the engine lacks.

import { bytesOf, encoder } from "./natives";

/** Hands on what it gets. */
export class IdentityTransformStream extends TransformStream<Uint8Array, Uint8Array> {
  constructor(transformer: Transformer<Uint8Array, Uint8Array> = {}) {
    super({
      ...transformer,
      transform(piece, controller) {
        controller.enqueue(checked(piece));
      },
    });
  }
}

function checked(piece: unknown): Uint8Array {
  const bytes = bytesOf(piece);
  if (!bytes) {
    throw new TypeError(
      "This TransformStream is being used as a byte stream, but received an object of non-ArrayBuffer/ArrayBufferView " +
        "type on its writable side. If you want to write objects or text, pipe them through a TextEncoderStream first.",
    );
  }
  return bytes;
}

/** The streams whose length is known before they are read. */
const lengths = new WeakMap<ReadableStream, number>();

export function fixedLength(stream: ReadableStream): number | undefined {
  return lengths.get(stream);
}

/** Hands on exactly so many bytes. */
export class FixedLengthStream extends TransformStream<Uint8Array, Uint8Array> {
  constructor(length: number | bigint) {
    const expected = Number(length);
    if (!Number.isSafeInteger(expected) || expected < 0)
      throw new TypeError("The length of a FixedLengthStream is a whole number.");
    let written = 0;
    super({
      transform(piece, controller) {
        const bytes = checked(piece);
        written += bytes.length;
        if (written > expected) throw new TypeError("Attempt to write too many bytes through a FixedLengthStream.");
        controller.enqueue(bytes);
      },
      flush() {
        if (written < expected)
          throw new TypeError(
            `FixedLengthStream did not see all expected bytes before close(): ${written} of ${expected}.`,
          );
      },
    });
    lengths.set(this.readable, expected);
  }
}

export class TextEncoderStream extends TransformStream<string, Uint8Array> {
  constructor() {
    let high = "";
    super({
      transform(piece, controller) {
        let text = high + String(piece);
        high = "";
        const last = text.charCodeAt(text.length - 1);
        // Half of a character waits for the other half.
        if (last >= 0xd800 && last <= 0xdbff) {
          high = text.slice(-1);
          text = text.slice(0, -1);
        }
        if (text) controller.enqueue(encoder.encode(text));
      },
      flush(controller) {
        if (high) controller.enqueue(encoder.encode(high));
      },
    });
  }

  get encoding(): string {
    return "utf-8";
  }
}

export class TextDecoderStream extends TransformStream<Uint8Array, string> {
  readonly encoding: string;
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;

  constructor(label = "utf-8", options: { fatal?: boolean; ignoreBOM?: boolean } = {}) {
    const decoder = new TextDecoder(label, options as TextDecoderConstructorOptions);
    super({
      transform(piece, controller) {
        const text = decoder.decode(checked(piece), { stream: true });
        if (text) controller.enqueue(text);
      },
      flush(controller) {
        const text = decoder.decode();
        if (text) controller.enqueue(text);
      },
    });
    this.encoding = decoder.encoding;
    this.fatal = options.fatal ?? false;
    this.ignoreBOM = options.ignoreBOM ?? false;
  }
}

async function* pieces(stream: ReadableStream, options?: { preventCancel?: boolean }): AsyncGenerator<unknown> {
  const reader = stream.getReader();
  let finished = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        finished = true;
        return;
      }
      yield value;
    }
  } finally {
    if (!finished && !options?.preventCancel) await reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}

function from(source: AsyncIterable<unknown> | Iterable<unknown>): ReadableStream {
  const iterator =
    Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : (source as Iterable<unknown>)[Symbol.iterator]();
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done) controller.close();
        else controller.enqueue(await value);
      },
      async cancel(reason) {
        await iterator.return?.(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

export function completeReadableStream(): void {
  const prototype = ReadableStream.prototype as unknown as Record<PropertyKey, unknown>;
  const values = function (this: ReadableStream, options?: { preventCancel?: boolean }) {
    return pieces(this, options);
  };
  define(prototype, "values", values);
  define(prototype, Symbol.asyncIterator, values);
  define(ReadableStream as unknown as Record<PropertyKey, unknown>, "from", from);
}

/** Adds what is not there. */
export function define(target: Record<PropertyKey, unknown>, name: PropertyKey, value: unknown): void {
  if (name in target) return;
  Object.defineProperty(target, name, { value, writable: true, configurable: true, enumerable: false });
}
