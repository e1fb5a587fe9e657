// `Response`, in place of the engine's: it costs half to make, remembers the body that it was given, and can be cloned.

import { Body, extract } from "./body";
import { encodeLines } from "./headers";
import type { Lazy } from "./lazy";
import { BODY, HEADERS, HeaderState, Message } from "./message";
import type { NativeResponse } from "./natives";

interface Init {
  status?: number;
  statusText?: string;
  headers?: unknown;
  cf?: unknown;
  webSocket?: unknown;
  encodeBody?: string;
}

/** What only the runtime sets. */
interface Origin {
  url: string;
  redirected: boolean;
  type: string;
}

const ORIGIN = Symbol("origin");
const STATUS = Symbol("status");
const DETAILS = Symbol("details");
const TYPE = Symbol("type");
const SETTLED = Symbol("settled");
export const LINES = Symbol("lines");

const DEFAULT_ORIGIN: Origin = { url: "", redirected: false, type: "default" };
const TEXT_ONLY = encodeLines([["content-type", "text/plain;charset=UTF-8"]], null);
const NO_HEADERS = encodeLines([], null);
const TEXT = "text/plain;charset=UTF-8";

export class Response extends Message {
  [HEADERS]: HeaderState;
  [BODY]: Body;
  declare private [ORIGIN]: Origin;
  declare private [STATUS]: number;
  declare private [DETAILS]: Init | undefined;
  declare private [TYPE]: string | null;

  constructor(init?: unknown, options?: Init | Response | null) {
    super();
    const { body, type } = extract(init);
    this[BODY] = body;
    this[ORIGIN] = DEFAULT_ORIGIN;
    this[TYPE] = type;
    if (options === undefined || options === null) {
      this[STATUS] = 200;
      this[HEADERS] = new HeaderState(null, null);
      return;
    }
    const status = options.status === undefined ? 200 : Number(options.status);
    checkStatus(status, body, "webSocket" in options ? options.webSocket : null);
    this[STATUS] = status;
    this[DETAILS] = { statusText: options.statusText, cf: options.cf, encodeBody: (options as Init).encodeBody };
    this[HEADERS] = options instanceof Response ? options[SETTLED]().copy() : HeaderState.from(options.headers);
  }

  get status(): number {
    return this[STATUS];
  }

  get ok(): boolean {
    return this[STATUS] >= 200 && this[STATUS] < 300;
  }

  get statusText(): string {
    return this[DETAILS]?.statusText ?? REASONS[this[STATUS]] ?? "";
  }

  get url(): string {
    return this[ORIGIN].url;
  }

  get redirected(): boolean {
    return this[ORIGIN].redirected;
  }

  get type(): string {
    return this[ORIGIN].type;
  }

  get webSocket(): null {
    return null;
  }

  get cf(): unknown {
    return this[DETAILS]?.cf;
  }

  override get headers() {
    return this[SETTLED]().headers();
  }

  clone(): Response {
    const other = new Response(null, null);
    other[BODY] = this[BODY].clone();
    other[STATUS] = this[STATUS];
    other[DETAILS] = this[DETAILS];
    other[ORIGIN] = this[ORIGIN];
    other[HEADERS] = this[SETTLED]().copy();
    return other;
  }

  static json(value: unknown, options?: Init): Response {
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError("The value is not JSON serializable.");
    const response = new Response(text, options);
    response[TYPE] = "application/json";
    return response;
  }

  static redirect(url: string | URL, status = 302): Response {
    if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError(`${status} is not a redirect status code.`);
    return new Response(null, { status, headers: { location: new URL(String(url)).href } });
  }

  static error(): Response {
    const response = new Response(null, null);
    response[STATUS] = 0;
    response[ORIGIN] = { url: "", redirected: false, type: "error" };
    return response;
  }

  /** The headers, the content type of the body among them. */
  [SETTLED](): HeaderState {
    if (this[TYPE] !== null) {
      this[HEADERS].addDefault("content-type", this[TYPE]);
      this[TYPE] = null;
    }
    return this[HEADERS];
  }

  /** The headers as the host takes them. A `content-length` of the program's counts for nothing, as on the platform: it
   * is most often that of another body, copied with the other headers. `length` is what is known of this one. */
  [LINES](length: string | null): Uint8Array {
    if (this[HEADERS].untouched && length === null) {
      if (this[TYPE] === TEXT) return TEXT_ONLY;
      if (this[TYPE] === null) return NO_HEADERS;
    }
    return encodeLines(this[SETTLED]().list(), length);
  }
}

/** The statuses that have no body. */
export function isNullBodyStatus(status: number): boolean {
  return status === 101 || status === 204 || status === 205 || status === 304;
}

function checkStatus(status: number, body: Body, webSocket: unknown): void {
  if (webSocket) throw new TypeError("This host does not serve WebSockets yet.");
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError("Responses may only be constructed with status codes in the range 200 to 599, inclusive.");
  }
  if (isNullBodyStatus(status) && !body.isNull) {
    throw new TypeError("Response with null body status (101, 204, 205, or 304) cannot have a body.");
  }
}

/** A response that came from outside. `body` in place of its own where the host holds it. */
export function fromNative(
  native: NativeResponse,
  body: Lazy | null,
  url: string,
  redirected: boolean,
  hidden: string | null,
): Response {
  const response = new Response(null, null);
  response[STATUS] = native.status;
  response[ORIGIN] = { url, redirected, type: "default" };
  response[HEADERS] = new HeaderState(null, native.headers, true, hidden);
  response[BODY] = new Body(body ?? (isNullBodyStatus(native.status) ? null : native));
  return response;
}

const REASONS: Record<number, string> = {
  200: "OK",
  201: "Created",
  202: "Accepted",
  204: "No Content",
  206: "Partial Content",
  301: "Moved Permanently",
  302: "Found",
  303: "See Other",
  304: "Not Modified",
  307: "Temporary Redirect",
  308: "Permanent Redirect",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  412: "Precondition Failed",
  413: "Payload Too Large",
  415: "Unsupported Media Type",
  416: "Range Not Satisfiable",
  418: "I'm a teapot",
  422: "Unprocessable Entity",
  429: "Too Many Requests",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};
