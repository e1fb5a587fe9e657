// What requests and responses have in common: headers that become an engine object when they are asked for, and a body.

import type { Body } from "./body";
import { parseMultipart } from "./form";
import { fromHeaders, plainPairs, toHeaders, type Pair } from "./headers";
import { NativeHeaders, decoder } from "./natives";

/** The headers of a message, in whichever form they came. */
export class HeaderState {
  constructor(
    private pairs: Pair[] | null,
    private object: NativeHeaders | null,
    /** Came from outside, so that the program may not change them. */
    private readonly frozen = false,
    /** A name that is the host's business and not the program's. */
    private readonly hidden: string | null = null,
  ) {}

  /** What an `init.headers` means. */
  static from(init: unknown): HeaderState {
    if (init === undefined || init === null) return new HeaderState(null, null);
    const pairs = plainPairs(init);
    return pairs ? new HeaderState(pairs, null) : new HeaderState(null, new NativeHeaders(init as HeadersInit));
  }

  get untouched(): boolean {
    return this.pairs === null && this.object === null;
  }

  copy(): HeaderState {
    return new HeaderState(this.list().slice(), null);
  }

  /** Every header; cookies each on their own. */
  list(): readonly Pair[] {
    const pairs = this.object ? fromHeaders(this.object) : (this.pairs ?? []);
    return this.hidden === null ? pairs : pairs.filter((pair) => pair[0] !== this.hidden);
  }

  headers(): NativeHeaders {
    if (this.object && this.hidden === null && !this.frozen) return this.object;
    if (this.shown === null) this.shown = toHeaders(this.list(), this.frozen);
    if (!this.frozen) {
      this.object = this.shown;
      this.pairs = null;
    }
    return this.shown;
  }

  private shown: NativeHeaders | null = null;

  get(name: string): string | null {
    if (this.object) return this.object.get(name);
    let found: string | null = null;
    for (const [key, value] of this.pairs ?? []) {
      if (key === name) found = found === null ? value : `${found}, ${value}`;
    }
    return found;
  }

  /** Adds a header that the program has not set. */
  addDefault(name: string, value: string): void {
    if (this.object) {
      if (!this.object.has(name)) this.object.append(name, value);
    } else if (this.pairs === null) this.pairs = [[name, value]];
    else if (!this.pairs.some((pair) => pair[0] === name)) this.pairs.push([name, value]);
  }
}

export const HEADERS = Symbol("headers");
export const BODY = Symbol("body");

/** The readers of `Request` and `Response`. */
export abstract class Message {
  abstract [HEADERS]: HeaderState;
  abstract [BODY]: Body;

  get headers(): NativeHeaders {
    return this[HEADERS].headers();
  }

  get body(): ReadableStream<Uint8Array> | null {
    return this[BODY].stream();
  }

  get bodyUsed(): boolean {
    return this[BODY].bodyUsed;
  }

  text(): Promise<string> {
    return this[BODY].text();
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this[BODY].text());
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this[BODY].bytes()).buffer as ArrayBuffer;
  }

  bytes(): Promise<Uint8Array> {
    return this[BODY].bytes();
  }

  async blob(): Promise<Blob> {
    const type = this[HEADERS].get("content-type") ?? "";
    return new Blob([(await this[BODY].bytes()) as unknown as ArrayBuffer], { type });
  }

  async formData(): Promise<FormData> {
    const type = this[HEADERS].get("content-type") ?? "";
    if (/^multipart\/form-data\b/i.test(type)) return parseMultipart(await this[BODY].bytes(), type);
    if (/^application\/x-www-form-urlencoded\b/i.test(type)) {
      const form = new FormData();
      for (const [name, value] of new URLSearchParams(decoder.decode(await this[BODY].bytes())))
        form.append(name, value);
      return form;
    }
    throw new TypeError(
      "Unrecognized Content-Type header value. FormData can only parse the following MIME types: multipart/form-data, application/x-www-form-urlencoded.",
    );
  }
}
