// Timers belong to the request that started them: what is still pending when it has ended is forgotten, because the
// next request of the instance is somebody else's. An exception in a callback is logged; the engine would end with it.

import { logError } from "./console";
import { native } from "./natives";
import { refuseInGlobalScope } from "./state";

const pending = new Set<number>();

function guarded(callback: unknown, values: unknown[], done?: () => void): () => void {
  if (typeof callback !== "function") throw new TypeError("The first argument of a timer is a function.");
  return () => {
    done?.();
    try {
      (callback as (...values: unknown[]) => unknown)(...values);
    } catch (error) {
      logError("Uncaught (in timer)", error);
    }
  };
}

export function setTimeout(callback: unknown, delay?: unknown, ...values: unknown[]): number {
  refuseInGlobalScope();
  const id = native.setTimeout(
    guarded(callback, values, () => pending.delete(id)),
    milliseconds(delay),
  );
  pending.add(id);
  return id;
}

export function setInterval(callback: unknown, delay?: unknown, ...values: unknown[]): number {
  refuseInGlobalScope();
  const id = native.setInterval(guarded(callback, values), Math.max(1, milliseconds(delay)));
  pending.add(id);
  return id;
}

export function clearTimeout(id?: unknown): void {
  if (typeof id !== "number" || !pending.delete(id)) return;
  native.clearTimeout(id);
}

/** Ends every timer of the request. */
export function clearTimers(): void {
  if (pending.size === 0) return;
  for (const id of pending) native.clearTimeout(id);
  pending.clear();
}

export function queueMicrotask(callback: unknown): void {
  native.queueMicrotask(guarded(callback, []));
}

function milliseconds(delay: unknown): number {
  const number = Number(delay);
  return number > 0 ? Math.min(number, 0x7fffffff) : 0;
}

/** `scheduler` of the global scope. */
export const scheduler = {
  wait(delay: number, options?: { signal?: AbortSignal }): Promise<void> {
    return new Promise((resolve, reject) => {
      const signal = options?.signal;
      if (signal?.aborted) return reject(signal.reason);
      const id = setTimeout(() => {
        signal?.removeEventListener("abort", abort);
        resolve();
      }, delay);
      const abort = () => {
        clearTimeout(id);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
    });
  },
};
