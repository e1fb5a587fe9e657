// What a module exports, and what `cloudflare:workers` gives it to extend.

import { inspect } from "./inspect";
import type { ExecutionContext } from "./state";

type Handler = (...values: unknown[]) => unknown;

/** A worker as a class: one object for each request. */
export class WorkerEntrypoint {
  protected readonly ctx: unknown;
  protected readonly env: unknown;

  constructor(ctx: unknown, env: unknown) {
    this.ctx = ctx;
    this.env = env;
  }
}

const EVENTS = ["fetch", "scheduled", "queue", "email", "tail", "trace"];

export class Worker {
  private constructor(
    private readonly target: Record<string, unknown> | (new (ctx: unknown, env: unknown) => Record<string, unknown>),
    private readonly env: unknown,
  ) {}

  /** Reads a module's exports. Throws a text that says what they are, if they are no worker. */
  static from(exports: Record<string, unknown>, env: unknown): Worker {
    const target = exports.default;
    if (isClass(target)) {
      if (EVENTS.some((name) => name in (target.prototype as object))) return new Worker(target as never, env);
    } else if (typeof target === "object" && target !== null) {
      if (EVENTS.some((name) => typeof (target as Record<string, unknown>)[name] === "function")) {
        return new Worker(target as Record<string, unknown>, env);
      }
    }
    throw `The worker has no handler. ${describe(exports)} A worker's module needs a default export with a fetch function:\n\n  export default {\n    async fetch(request, env, ctx) {\n      return new Response("Hello");\n    },\n  };`;
  }

  /** Calls a handler with what it gets in an object and in a class. */
  call(event: string, subject: unknown, context: ExecutionContext): unknown {
    if (typeof this.target === "function") {
      const object = new this.target(context, this.env);
      return handler(object, event).call(object, subject);
    }
    return handler(this.target, event).call(this.target, subject, this.env, context);
  }
}

function handler(target: Record<string, unknown>, event: string): Handler {
  const found = target[event];
  if (typeof found !== "function") throw new TypeError(`Handler does not export a ${event}() function.`);
  return found as Handler;
}

function isClass(value: unknown): value is { prototype: unknown } {
  return typeof value === "function" && typeof value.prototype === "object" && value.prototype !== null;
}

function describe(exports: Record<string, unknown>): string {
  const names = Object.keys(exports);
  if (names.length === 0) return "Its module exports nothing.";
  if (!names.includes("default")) return `Its module exports ${names.join(", ")}, but no default.`;
  const value = exports.default;
  if (typeof value === "function")
    return `Its default export is the function ${inspect(value)}, not an object with a fetch function.`;
  if (typeof value !== "object" || value === null) return `Its default export is ${inspect(value)}, not an object.`;
  const keys = Object.keys(value);
  return keys.length
    ? `Its default export has ${keys.join(", ")}, but no fetch function.`
    : "Its default export is an empty object.";
}

function missing(name: string, what: string) {
  return class {
    constructor() {
      throw new Error(`${name} is not supported: this host has no ${what}.`);
    }
  };
}

export const DurableObject = missing("DurableObject", "Durable Objects yet");
export const WorkflowEntrypoint = missing("WorkflowEntrypoint", "Workflows");
export class RpcTarget {}
