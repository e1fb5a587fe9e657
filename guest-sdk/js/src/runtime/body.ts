// Bodies. A body stays what the program gave, a text or bytes, until something else is asked for: most are sent as they
// came, and the engine's own objects and streams cost more than the body.

import { Lazy, isDisturbed, streamOfBytes, unread } from "./lazy";
import { fixedLength } from "./streams";
import { NOTHING, NativeResponse, bytesOf, decoder, encoder, type ByteStream } from "./natives";

export type Source = string | Uint8Array | Blob | NativeResponse | Lazy | null;

const USED = "Body has already been used. It can only be used once. Use tee() first if you need to read it twice.";

export class Body {
  used = false;
  /** The stream, once somebody has asked for it. It then decides whether the body has been read. */
  private shown: ByteStream | null = null;

  constructor(
    private source: Source,
    stream: ByteStream | null = null,
  ) {
    this.shown = stream;
  }

  get isNull(): boolean {
    return this.source === null && this.shown === null;
  }

  get bodyUsed(): boolean {
    if (this.used) return true;
    if (this.shown) return this.shown.locked || isDisturbed(this.shown);
    return this.source instanceof NativeResponse && this.source.bodyUsed;
  }

  /** The bytes or text, where they are known and unread. */
  get whole(): string | Uint8Array | undefined {
    const { source } = this;
    if (this.shown) return this.unopened()?.whole;
    return (typeof source === "string" || source instanceof Uint8Array) && !this.used ? source : undefined;
  }

  /** The number of a body that the host holds and nobody has read. */
  get held(): number | undefined {
    return this.unopened()?.held;
  }

  /** How many bytes a body that is no text or bytes is going to have, where that is known: digits. */
  get length(): string | null {
    if (this.shown && fixedLength(this.shown) !== undefined) return String(fixedLength(this.shown));
    if (this.source instanceof Blob) return String(this.source.size);
    // The engine decodes nothing, so what was announced is what comes.
    const said = this.source instanceof NativeResponse ? this.source.headers.get("content-length") : null;
    return said !== null && /^\d{1,15}$/.test(said) ? said : null;
  }

  private unopened(): Lazy | undefined {
    if (this.used) return undefined;
    if (this.shown) return unread(this.shown);
    return this.source instanceof Lazy && !this.source.started ? this.source : undefined;
  }

  stream(): ByteStream | null {
    if (this.shown === null && this.source !== null) this.shown = streamOf(this.source);
    return this.shown;
  }

  /** Lets go of a body that nobody is going to read. */
  discard(): void {
    if (this.bodyUsed) return;
    this.used = true;
    const lazy = this.shown ? unread(this.shown) : this.source;
    if (lazy instanceof Lazy) lazy.giveUp();
    else
      this.stream()
        ?.cancel()
        .catch(() => {});
  }

  /** Hands the body to another owner. */
  take(): Body {
    if (this.bodyUsed) throw new TypeError(USED);
    const taken = new Body(this.source, this.shown);
    if (!this.isNull) this.used = true;
    return taken;
  }

  clone(): Body {
    if (this.bodyUsed) throw new TypeError(USED);
    const { source } = this;
    const simple =
      source === null || typeof source === "string" || source instanceof Uint8Array || source instanceof Blob;
    if (simple && this.shown === null) return new Body(source);
    const stream = this.stream();
    if (stream === null) return new Body(null);
    const [mine, other] = stream.tee();
    this.source = null;
    this.shown = mine;
    return new Body(null, other);
  }

  async text(): Promise<string> {
    if (typeof this.whole === "string") {
      const { whole } = this;
      this.used = true;
      return whole;
    }
    return decoder.decode(await this.bytes());
  }

  async bytes(): Promise<Uint8Array> {
    if (this.bodyUsed) throw new TypeError(USED);
    const { source, shown } = this;
    const lazy = this.unopened();
    if (!this.isNull) this.used = true;
    if (lazy) return bytesIn(await lazy.open());
    if (source instanceof Uint8Array) return source.slice();
    if (typeof source === "string") return encoder.encode(source);
    if (shown) return bytesIn(new NativeResponse(shown as unknown as BodyInit));
    if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
    return source instanceof NativeResponse ? bytesIn(source) : NOTHING;
  }

  /** What the engine's `fetch` sends. */
  forEngine(): BodyInit | null {
    if (this.bodyUsed) throw new TypeError(USED);
    const { whole } = this;
    if (!this.isNull) this.used = true;
    if (whole !== undefined) return whole as BodyInit;
    if (this.source instanceof Blob && !this.shown) return this.source as unknown as BodyInit;
    return this.stream() as unknown as BodyInit | null;
  }
}

async function bytesIn(response: NativeResponse): Promise<Uint8Array> {
  return new Uint8Array(await response.arrayBuffer());
}

function streamOf(source: Exclude<Source, null>): ByteStream | null {
  if (source instanceof NativeResponse) return source.body as ByteStream | null;
  if (source instanceof Lazy) return source.stream();
  if (source instanceof Blob) return source.stream() as unknown as ByteStream;
  return streamOfBytes(typeof source === "string" ? encoder.encode(source) : source.slice());
}

/** A body of what a constructor was given, with the content type that goes with it. */
export function extract(init: unknown): { body: Body; type: string | null } {
  if (init === null || init === undefined) return { body: new Body(null), type: null };
  if (typeof init === "string") return { body: new Body(init), type: "text/plain;charset=UTF-8" };
  const bytes = bytesOf(init);
  if (bytes) return { body: new Body(bytes.slice()), type: null };
  if (init instanceof ReadableStream) {
    if (init.locked || isDisturbed(init))
      throw new TypeError(
        "This ReadableStream is disturbed (has already been read from), and cannot be used as a body.",
      );
    return { body: new Body(null, init as ByteStream), type: null };
  }
  if (init instanceof URLSearchParams) {
    return { body: new Body(init.toString()), type: "application/x-www-form-urlencoded;charset=UTF-8" };
  }
  if (init instanceof Blob) return { body: new Body(init), type: init.type || null };
  if (init instanceof FormData) {
    const native = new NativeResponse(init as unknown as BodyInit);
    return { body: new Body(native), type: native.headers.get("content-type") };
  }
  return { body: new Body(String(init)), type: "text/plain;charset=UTF-8" };
}
