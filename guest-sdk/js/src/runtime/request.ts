// `Request`, in place of the engine's, whose guard drops headers that a server has to see (`host`, `connection`) and
// which is filled from an engine object that most handlers never look at.

import { Body, extract } from "./body";
import { parseLines } from "./headers";
import { requestBody } from "./lazy";
import { BODY, HEADERS, HeaderState, Message } from "./message";

interface Init {
  method?: string;
  headers?: unknown;
  body?: unknown;
  redirect?: string;
  signal?: AbortSignal | null;
  cf?: unknown;
}

export interface Incoming {
  method: string;
  url: string;
  lines: string;
  body: Uint8Array | undefined;
  more: boolean;
}

const STATE = Symbol("state");

interface State {
  method: string;
  url: string;
  redirect: string;
  signal: AbortSignal | null;
  cf: unknown;
}

const NORMALIZED = new Set(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]);

/** How the runtime makes the request that came in, which a program's own objects cannot imitate. */
const INCOMING = new WeakSet<object>();

export class Request extends Message {
  [HEADERS]!: HeaderState;
  [BODY]!: Body;
  declare private [STATE]: State;

  constructor(input: unknown, init?: Init | Request | null) {
    super();
    if (INCOMING.has(input as object)) receive(this, input as Incoming);
    else build(this, input, init ?? {});
  }

  get method(): string {
    return this[STATE].method;
  }

  get url(): string {
    return this[STATE].url;
  }

  get redirect(): string {
    return this[STATE].redirect;
  }

  get signal(): AbortSignal {
    return (this[STATE].signal ??= new AbortController().signal);
  }

  get cf(): unknown {
    return this[STATE].cf;
  }

  get integrity(): string {
    return "";
  }

  get keepalive(): boolean {
    return false;
  }

  get fetcher(): null {
    return null;
  }

  clone(): Request {
    const state = { ...this[STATE] };
    return assemble(state, this[HEADERS].copy(), this[BODY].clone());
  }

  /** The signal, if the program gave one. */
  static given(request: Request): AbortSignal | null {
    return request[STATE].signal;
  }
}

export const signalOf = Request.given;
delete (Request as { given?: unknown }).given;

function assemble(state: State, headers: HeaderState, body: Body): Request {
  const request = Object.create(Request.prototype) as Request;
  const parts = request as unknown as { [STATE]: State };
  parts[STATE] = state;
  request[HEADERS] = headers;
  request[BODY] = body;
  return request;
}

function receive(request: Request, incoming: Incoming): void {
  const { method, url, lines, body, more } = incoming;
  const parts = request as unknown as { [STATE]: State };
  parts[STATE] = { method, url, redirect: "manual", signal: null, cf: undefined };
  request[HEADERS] = new HeaderState(parseLines(lines), null, true);
  // The bytes come from the global scope of the bindings, whose classes are not those of this one.
  const own = body && new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  request[BODY] = new Body(more ? requestBody() : (own ?? null));
}

function build(request: Request, input: unknown, init: Init | Request): void {
  const from = input instanceof Request ? input : undefined;
  const method = init.method === undefined ? (from?.method ?? "GET") : normalize(String(init.method));
  const state: State = {
    method,
    url: from ? from.url : absolute(input),
    redirect: init.redirect ?? from?.redirect ?? "follow",
    signal: (init instanceof Request ? signalOf(init) : init.signal) ?? (from ? signalOf(from) : null),
    cf: init.cf ?? from?.cf,
  };
  if (!["follow", "manual"].includes(state.redirect)) {
    throw new TypeError(
      `Invalid redirect value, must be one of "follow" or "manual" ("${state.redirect}" won't be implemented).`,
    );
  }
  const headers =
    init instanceof Request
      ? init[HEADERS].copy()
      : init.headers !== undefined
        ? HeaderState.from(init.headers)
        : (from?.[HEADERS].copy() ?? new HeaderState(null, null));
  const given = init instanceof Request ? undefined : init.body;
  const { body, type } =
    given !== undefined && given !== null ? extract(given) : { body: inherit(init, from), type: null };
  if (type !== null) headers.addDefault("content-type", type);
  if (!body.isNull && (method === "GET" || method === "HEAD")) {
    throw new TypeError("Request with a GET or HEAD method cannot have a body.");
  }
  const parts = request as unknown as { [STATE]: State };
  parts[STATE] = state;
  request[HEADERS] = headers;
  request[BODY] = body;
}

function inherit(init: Init | Request, from: Request | undefined): Body {
  if (init instanceof Request) return init[BODY].take();
  return init.body === null || !from ? new Body(null) : from[BODY].take();
}

function normalize(method: string): string {
  const upper = method.toUpperCase();
  if (NORMALIZED.has(upper)) return upper;
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(method)) throw new TypeError(`Invalid HTTP method string: ${method}`);
  return method;
}

function absolute(input: unknown): string {
  const text = String(input);
  try {
    return new URL(text).href;
  } catch {
    throw new TypeError(`Invalid URL: ${text}`);
  }
}

/** The request that the host hands over. */
export function incomingRequest(incoming: Incoming): Request {
  INCOMING.add(incoming);
  return new Request(incoming);
}
