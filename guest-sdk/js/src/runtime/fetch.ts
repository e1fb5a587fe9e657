// `fetch`. The network is reached through the engine's own, and so are the host's answers to the runtime, at an
// authority that no network has.

import { Body } from "./body";
import { BODY, HEADERS } from "./message";
import { end, heldBody, Lazy } from "./lazy";
import { NativeHeaders, nativeFetch, type NativeResponse } from "./natives";
import { toHeaders } from "./headers";
import { Request, signalOf } from "./request";
import { Response, fromNative } from "./response";
import { refuseInGlobalScope } from "./state";

export const HELD = "x-held";
/** How the host is told which call a later word is about. */
const NUMBER = "x-host-call";
const MAX_REDIRECTS = 20;

interface Sent {
  method: string;
  headers: NativeHeaders;
  body: BodyInit | null;
  signal: AbortSignal | null;
}

let calls = 0;
/** Which call an answer belongs to. */
const numbers = new WeakMap<NativeResponse, number>();

/** The engine's `fetch`, ended by the signal wherever it is: the engine itself would only stop waiting. */
export async function send(
  url: string,
  { method, headers, body, signal }: Sent,
  abortError?: () => unknown,
): Promise<NativeResponse> {
  const init: Record<string, unknown> = { method, headers };
  if (body !== null) {
    init.body = body;
    init.duplex = "half";
  }
  if (!signal) return nativeFetch(url, init as RequestInit);
  calls = (calls + 1) % 2 ** 32;
  const number = calls;
  headers.set(NUMBER, String(number));
  const reason = abortError ?? (() => signal.reason);
  if (signal.aborted) throw reason();
  let abort!: () => void;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => {
      reject(reason());
      endCall(number);
    };
    signal.addEventListener("abort", abort, { once: true });
  });
  const answer = nativeFetch(url, init as RequestInit);
  answer.then(
    (late) => {
      numbers.set(late, number);
      // Of what the host may hold by now, it has to be told separately.
      const held = signal.aborted && url.startsWith(`${INTERNAL}/`) ? heldNumber(late) : undefined;
      if (held !== undefined) heldBody(held).giveUp();
    },
    () => {},
  );
  try {
    return await Promise.race([answer, aborted]);
  } catch (error) {
    throw signal.aborted ? reason() : error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function endCall(number: number | undefined): void {
  if (number !== undefined) end(`${INTERNAL}/call/${number}`);
}

export function heldNumber(response: NativeResponse): number | undefined {
  const held = response.headers.get(HELD);
  return held !== null && /^\d{1,9}$/.test(held) ? Number(held) : undefined;
}

/** The body of an answer of the host, where it lies with the host or a signal can end it. */
export function bodyOf(response: NativeResponse, signal: AbortSignal | null, abortError?: () => unknown): Lazy | null {
  const held = heldNumber(response);
  if (held !== undefined) return heldBody(held, signal ?? undefined, abortError);
  if (!signal || !response.body) return null;
  return answered(response, signal, abortError);
}

/** A body on its way to the engine, which the signal can end. */
function answered(response: NativeResponse, signal: AbortSignal, abortError?: () => unknown): Lazy {
  const release = () => endCall(numbers.get(response));
  return new Lazy(async () => response, release, undefined, signal, abortError);
}

export function workerFetch(input: unknown, init?: ConstructorParameters<typeof Request>[1]): Promise<Response> {
  refuseInGlobalScope();
  return follow(input, init);
}

async function follow(input: unknown, init?: ConstructorParameters<typeof Request>[1]): Promise<Response> {
  const request = input instanceof Request && !init ? input : new Request(input, init);
  const signal = signalOf(request);
  let { url, method } = request;
  const headers = toHeaders(request[HEADERS].list());
  const whole = request[BODY].whole;
  let body = request[BODY].forEngine();
  for (let redirects = 0; ; redirects++) {
    const native = await send(url, { method, headers, body, signal });
    const target = request.redirect === "follow" ? redirectTarget(native, url) : undefined;
    if (!target) {
      const response = fromNative(
        native,
        signal && native.body ? answered(native, signal) : null,
        url,
        redirects > 0,
        null,
      );
      // What the answer to HEAD announces does not follow.
      if (method === "HEAD") response[BODY] = new Body(null);
      return response;
    }
    if (redirects === MAX_REDIRECTS) throw new TypeError(`Too many redirects; the last one went to ${target}`);
    native.body?.cancel().catch(() => {});
    endCall(numbers.get(native));
    if (native.status === 303 ? method !== "HEAD" : native.status <= 302 && method === "POST") {
      method = "GET";
      body = null;
      for (const name of ["content-type", "content-length", "content-encoding", "content-language"])
        headers.delete(name);
    } else if (body !== null) {
      if (whole === undefined) {
        throw new TypeError(
          "A request with a one-time-use body (it was initialized from a stream, not a buffer) encountered a redirect requiring the body to be retransmitted. To avoid this error in the future, construct this request from a buffer-like body initializer.",
        );
      }
      body = whole as BodyInit;
    }
    if (new URL(target).origin !== new URL(url).origin) {
      for (const name of ["authorization", "cookie"]) headers.delete(name);
    }
    url = target;
  }
}

function redirectTarget(native: NativeResponse, url: string): string | undefined {
  if (![301, 302, 303, 307, 308].includes(native.status)) return undefined;
  const location = native.headers.get("location");
  if (location === null) return undefined;
  try {
    const target = new URL(location, url);
    return target.protocol === "http:" || target.protocol === "https:" ? target.href : undefined;
  } catch {
    return undefined;
  }
}
