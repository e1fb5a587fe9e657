// Bodies that lie with the host until somebody reads them: the rest of a request, and what the host holds of a
// response. A worker that only passes such a stream on never moves a byte of it through the interpreter.

import { NativeResponse, nativeFetch, type ByteStream } from "./natives";

/** A body that is fetched when it is first read. */
export class Lazy {
  started = false;
  private cancelled = false;

  constructor(
    private readonly fetchBody: () => Promise<NativeResponse>,
    /** Tells the host that nobody is going to read on. The engine lets go of a body only when its collector comes by. */
    private readonly release?: () => void,
    /** The host's number of a body that it holds. */
    readonly held?: number,
    private readonly signal?: AbortSignal,
    /** What a reader of an aborted body gets. */
    private readonly abortError: () => unknown = () => signal?.reason,
    /** All of it, if it is here already and a stream was only asked for. */
    readonly whole?: Uint8Array,
  ) {}

  /** The body, whole and unread. May be asked once. */
  async open(): Promise<NativeResponse> {
    this.started = true;
    if (this.signal?.aborted) {
      this.giveUp();
      throw this.abortError();
    }
    const response = await this.fetchBody();
    if (!response.ok) throw new TypeError("The body is no longer there.");
    return response;
  }

  /** Ends the body, read or not. */
  giveUp(): void {
    if (this.cancelled) return;
    this.cancelled = true;
    this.release?.();
  }

  /** The body as a stream that starts with its first reader. Not a byte stream: the engine cannot `tee` one. */
  stream(): ByteStream {
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
    let abort: (() => void) | undefined;
    const done = () => abort && this.signal?.removeEventListener("abort", abort);
    const stream = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          if (!this.signal) return;
          abort = () => {
            controller.error(this.abortError());
            this.giveUp();
            reader?.cancel().catch(() => {});
          };
          if (this.signal.aborted) abort();
          else this.signal.addEventListener("abort", abort, { once: true });
        },
        pull: async (controller) => {
          reader ??= (await this.open()).body?.getReader() as ReadableStreamDefaultReader<Uint8Array> | undefined;
          const piece = (await reader?.read()) ?? { done: true, value: undefined };
          if (this.signal?.aborted) return;
          if (!piece.done) return controller.enqueue(piece.value as Uint8Array);
          done();
          controller.close();
        },
        cancel: async (reason) => {
          done();
          this.started = true;
          this.giveUp();
          await reader?.cancel(reason);
        },
      },
      { highWaterMark: 0 },
    ) as ByteStream;
    lazies.set(stream, this);
    return stream;
  }
}

const lazies = new WeakMap<ByteStream, Lazy>();

/** What is behind a stream, if nobody has read from it. */
export function unread(stream: ByteStream): Lazy | undefined {
  const lazy = lazies.get(stream);
  return lazy && !lazy.started && !stream.locked ? lazy : undefined;
}

/** Whether somebody has read from a stream that this module made. */
export function isDisturbed(stream: ByteStream): boolean {
  return lazies.get(stream)?.started === true;
}

/** A stream of bytes that are here. */
export function streamOfBytes(bytes: Uint8Array): ByteStream {
  const open = async () => new NativeResponse(bytes as unknown as BodyInit);
  return new Lazy(open, undefined, undefined, undefined, undefined, bytes).stream();
}

/** A body that the host holds. */
export function heldBody(held: number, signal?: AbortSignal, abortError?: () => unknown): Lazy {
  const url = `${INTERNAL}/held/${held}`;
  return new Lazy(
    () => nativeFetch(url),
    () => end(url),
    held,
    signal,
    abortError,
  );
}

/** Ends what the host knows under a path. */
export function end(url: string): void {
  nativeFetch(url, { method: "DELETE" }).catch(() => {});
}

/** The rest of the request that is being handled. */
export function requestBody(): Lazy {
  return new Lazy(() => nativeFetch(`${INTERNAL}/body`));
}
