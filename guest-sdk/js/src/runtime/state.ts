// What the instance is doing. It handles one request at a time, so this is a variable and not something to pass around.

import { logError } from "./console";

/** Where the instance is in its life. */
export const phase = { inGlobalScope: false };

/** Refuses what needs a request to belong to. */
export function refuseInGlobalScope(): void {
  if (!phase.inGlobalScope) return;
  throw new Error(
    "Disallowed operation called within global scope. Asynchronous I/O (ex: fetch() or connect()), setting a timeout, " +
      "and generating random values are not allowed within global scope. To fix this error, perform this operation " +
      "within a handler. https://developers.cloudflare.com/workers/runtime-apis/handlers/",
  );
}

/** The `ctx` of a handler. */
export class ExecutionContext {
  readonly props: Record<string, unknown> = {};
  readonly exports: Record<string, unknown> = {};

  waitUntil(promise: unknown): void {
    let waits = waiting.get(this);
    if (!waits) waiting.set(this, (waits = []));
    waits.push(
      Promise.resolve(promise).then(undefined, (error) => logError("Uncaught (in waitUntil)", error)) as Promise<void>,
    );
  }

  /** There is no origin behind this host to pass through to, so an exception is an error page with and without it. */
  passThroughOnException(): void {}
}

const waiting = new WeakMap<ExecutionContext, Promise<void>[]>();

/** Resolves when everything is done that was given to `waitUntil`, also what was given meanwhile. */
export async function settled(context: ExecutionContext): Promise<void> {
  const waits = waiting.get(context);
  if (!waits) return;
  for (let next = 0; next < waits.length; next++) await waits[next];
}

export function hasWaits(context: ExecutionContext): boolean {
  return waiting.has(context);
}

let current: ExecutionContext | undefined;

export function setCurrent(context: ExecutionContext | undefined): void {
  current = context;
}

/** `waitUntil` of `cloudflare:workers`, which belongs to whatever is being handled. */
export function waitUntil(promise: unknown): void {
  if (!current) throw new Error("waitUntil() was called outside of a handler.");
  current.waitUntil(promise);
}
