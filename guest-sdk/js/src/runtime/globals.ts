// The global scope of a worker: the engine's, with what the platform has and the engine lacks. Nothing random is drawn
// here, because this runs once, before the engine's memory is stored, and every instance would draw the same.

import { URLPattern } from "urlpattern-polyfill/urlpattern";
import { Ai, AiInternalError, InferenceUpstreamError } from "./ai";
import { Cache, caches } from "./caches";
import { workerConsole } from "./console";
import { DurableObject, RpcTarget, WorkerEntrypoint, WorkflowEntrypoint } from "./entrypoints";
import type { Configuration } from "./env";
import { workerFetch } from "./fetch";
import { Fetcher } from "./fetcher";
import { format, inspect } from "./inspect";
import { bytesOf } from "./natives";
import { Request } from "./request";
import { Response } from "./response";
import { ExecutionContext, waitUntil } from "./state";
import * as streams from "./streams";
import { clearTimeout, queueMicrotask, scheduler, setInterval, setTimeout } from "./timers";

const scope = globalThis as unknown as Record<PropertyKey, unknown>;
const UNNAMED = new Set(["Ai", "AiInternalError", "InferenceUpstreamError"]);

/** Puts the platform's names where a worker looks for them. */
export function install(): void {
  const functions = {
    fetch: workerFetch,
    setTimeout,
    setInterval,
    clearTimeout,
    clearInterval: clearTimeout,
    queueMicrotask,
    reportError: (error: unknown) => workerConsole.error("Uncaught", error),
  };
  const classes = {
    Request,
    Response,
    Cache,
    Fetcher,
    Ai,
    AiInternalError,
    InferenceUpstreamError,
    ExecutionContext,
    IdentityTransformStream: streams.IdentityTransformStream,
    FixedLengthStream: streams.FixedLengthStream,
    TextEncoderStream: streams.TextEncoderStream,
    TextDecoderStream: streams.TextDecoderStream,
  };
  for (const [name, value] of Object.entries(functions)) replace(name, value, name);
  for (const [name, value] of Object.entries(classes)) {
    Object.defineProperty(value.prototype, Symbol.toStringTag, { value: name, configurable: true });
    // An error's and the binding's class are known by their objects only, as on the platform.
    if (UNNAMED.has(name)) Object.defineProperty(value, "name", { value: name });
    else replace(name, value, name);
  }
  for (const [name, what] of Object.entries(ABSENT)) if (!(name in scope)) replace(name, absent(name, what), name);
  replace("console", workerConsole);
  replace("caches", caches);
  replace("scheduler", scheduler);
  replace("URLPattern", URLPattern, "URLPattern");
  replace("navigator", { userAgent: "Cloudflare-Workers", language: "en", hardwareConcurrency: 1 });
  streams.completeReadableStream();
  complete();
}

function replace(name: string, value: unknown, called?: string): void {
  if (called) Object.defineProperty(value, "name", { value: called });
  Object.defineProperty(scope, name, { value, writable: true, configurable: true, enumerable: false });
}

const ABSENT = {
  HTMLRewriter: "it is not there yet",
  WebSocketPair: "this host does not serve WebSockets yet",
  WebSocket: "this host opens no WebSockets yet",
  EventSource: "read the body of a fetch instead",
  MessageChannel: "it is not there yet",
  BroadcastChannel: "instances of a worker do not know each other",
  Worker: "a worker has one thread",
};

function absent(name: string, why: string): unknown {
  return class {
    constructor() {
      throw new Error(`${name} is not supported: ${why}.`);
    }
  };
}

function complete(): void {
  const { abort } = AbortSignal;
  AbortSignal.abort = (reason?: unknown) =>
    // The engine insists on an argument.
    abort.call(AbortSignal, reason ?? new DOMException("The operation was aborted", "AbortError"));
  const url = URL as unknown as Record<PropertyKey, unknown>;
  streams.define(url, "parse", parseUrl);
  streams.define(url, "canParse", (text: string, base?: string) => parseUrl(text, base) !== null);
  streams.define(Crypto.prototype as unknown as Record<PropertyKey, unknown>, "timingSafeEqual", timingSafeEqual);
  streams.define(SubtleCrypto.prototype as unknown as Record<PropertyKey, unknown>, "timingSafeEqual", timingSafeEqual);
  streams.define(String.prototype as unknown as Record<PropertyKey, unknown>, "normalize", function (this: string) {
    const text = String(this);
    // The engine is built without Unicode's tables.
    if (/[^\x00-\x7f]/.test(text))
      throw new Error("String.prototype.normalize() is not supported for text beyond ASCII.");
    return text;
  });
}

function parseUrl(text: string, base?: string): URL | null {
  try {
    return new URL(text, base);
  } catch {
    return null;
  }
}

/** Whether two buffers hold the same, in a time that does not say where they differ. */
function timingSafeEqual(left: unknown, right: unknown): boolean {
  const a = bytesOf(left);
  const b = bytesOf(right);
  if (!a || !b) throw new TypeError("timingSafeEqual() compares buffers and views of them.");
  if (a.length !== b.length) throw new TypeError("Input buffers must have the same byte length");
  let different = 0;
  for (let index = 0; index < a.length; index++) different |= (a[index] as number) ^ (b[index] as number);
  return different === 0;
}

/** Where the module `cloudflare:workers` finds the runtime's part of it. */
const SHARED = Symbol.for("host.workers");

/** Makes what belongs to this worker known to the modules that are bundled with it. */
export function publish(env: Record<string, unknown>, configuration: Configuration): void {
  const vars: Record<string, string> = {};
  for (const [name, grant] of Object.entries(configuration.bindings ?? {})) {
    if (grant.type === "text") vars[name] = String(grant.value);
    else if (grant.type === "json") vars[name] = JSON.stringify(grant.value);
  }
  const shared = {
    env,
    vars,
    inspect,
    format,
    waitUntil,
    WorkerEntrypoint,
    DurableObject,
    WorkflowEntrypoint,
    RpcTarget,
  };
  Object.defineProperty(scope, SHARED, { value: shared, configurable: true });
}
