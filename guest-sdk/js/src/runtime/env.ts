// `env`: what the binding file grants. A name that it does not grant is undefined, as anywhere; the first read of it
// says in the log which lines of the binding file would grant it, because that is what has been forgotten most often.

import { Ai } from "./ai";
import { logWarning } from "./console";
import { Fetcher } from "./fetcher";
import { Queue } from "./queue";
import { Vectorize } from "./vectorize";

interface Grant {
  type: string;
  value?: unknown;
}

export interface Configuration {
  bindings?: Record<string, Grant>;
  flags?: string[];
}

/** What engines and libraries look for in any object, which says nothing about bindings. */
const ASKED_OF_ANYTHING = new Set([
  "then",
  "toJSON",
  "inspect",
  "nodeType",
  "$$typeof",
  "asymmetricMatch",
  "default",
  "__esModule",
]);

export function makeEnv(configuration: Configuration): Record<string, unknown> {
  const env: Record<string, unknown> = {};
  for (const [name, grant] of Object.entries(configuration.bindings ?? {})) {
    Object.defineProperty(env, name, {
      value: makeBinding(name, grant),
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  const warned = new Set<string>();
  return new Proxy(env, {
    get(target, key) {
      if (
        typeof key === "string" &&
        !(key in target) &&
        !ASKED_OF_ANYTHING.has(key) &&
        !warned.has(key) &&
        warned.size < 100
      ) {
        warned.add(key);
        logWarning(`env.${key} is undefined: the binding file does not grant it. To grant it, add:\n${linesFor(key)}`);
      }
      return target[key as string];
    },
  });
}

function makeBinding(name: string, grant: Grant): unknown {
  switch (grant.type) {
    case "ai":
      return new Ai(name);
    case "fetcher":
      return new Fetcher(name);
    case "queue":
      return new Queue(name);
    case "vectorize":
      return new Vectorize(name);
    case "text":
    case "json":
      return grant.value;
    default:
      throw new Error(`The binding ${name} is of type ${grant.type}, which the JavaScript runtime does not know.`);
  }
}

function linesFor(name: string): string {
  if (name === "AI") return '[ai]\nbinding = "AI"';
  if (name === "ASSETS") return '[assets]\ndirectory = "./public"\nbinding = "ASSETS"';
  return `[vars]\n${/^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name)} = "…"`;
}
