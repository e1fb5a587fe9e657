// Headers cross the border as text, a line for each. An engine object is only made where a program asks for one:
// filling and iterating it costs more than the rest of a short request. Loops here count, because the engine interprets
// `for … of` at twenty times the price.

import { NativeHeaders, encoder } from "./natives";

export type Pair = readonly [name: string, value: string];

/** The headers of what came from outside. Changing them would change nothing, so it is an error, as on the platform. */
export class FrozenHeaders extends NativeHeaders {
  override append(): void {
    immutable();
  }
  override set(): void {
    immutable();
  }
  override delete(): void {
    immutable();
  }
}

function immutable(): never {
  throw new TypeError("Can't modify immutable headers.");
}

const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
// Neither NUL, CR, LF nor anything beyond ISO 8859-1.
const VALUE = /^[\x01-\x09\x0b\x0c\x0e-\xff]*$/;

/**
 * The pairs of a plain object, or undefined where only the engine can tell what is meant or what is wrong. Pairs are
 * what most responses are made with, and reading them here saves the engine object.
 */
export function plainPairs(init: unknown): Pair[] | undefined {
  if (typeof init !== "object" || init === null || Object.getPrototypeOf(init) !== Object.prototype) return undefined;
  const pairs: Pair[] = [];
  const names = Object.keys(init);
  for (let at = 0; at < names.length; at++) {
    const name = names[at] as string;
    const value = String((init as Record<string, unknown>)[name]).trim();
    if (!NAME.test(name) || !VALUE.test(value)) return undefined;
    pairs.push([name.toLowerCase(), value]);
  }
  return pairs;
}

/** The host's lines as pairs. */
export function parseLines(lines: string): Pair[] {
  const pairs: Pair[] = [];
  const all = lines.split("\n");
  for (let number = 0; number < all.length; number++) {
    const line = all[number] as string;
    const at = line.indexOf("\0");
    if (at > 0) pairs.push([line.slice(0, at), line.slice(at + 1)]);
  }
  return pairs;
}

/** Pairs as the host's lines, with `length` as the length of the body whatever the pairs say of it: null for none. */
export function encodeLines(pairs: readonly Pair[], length: string | null): Uint8Array {
  let lines = "";
  for (let at = 0; at < pairs.length; at++) {
    const pair = pairs[at] as Pair;
    if (pair[0] !== "content-length") lines += pair[0] + "\0" + pair[1] + "\n";
  }
  if (length !== null) lines += `content-length\0${length}\n`;
  return encoder.encode(lines);
}

/** An engine object of pairs. `frozen` for what came from outside. */
export function toHeaders(pairs: readonly Pair[], frozen = false): NativeHeaders {
  const headers = frozen ? new FrozenHeaders() : new NativeHeaders();
  for (let at = 0; at < pairs.length; at++) {
    const pair = pairs[at] as Pair;
    append.call(headers, pair[0], pair[1]);
  }
  return headers;
}

const { append, forEach } = NativeHeaders.prototype;

/** The pairs of an engine object, cookies each on their own. */
export function fromHeaders(headers: NativeHeaders): Pair[] {
  const pairs: Pair[] = [];
  forEach.call(headers, (value: string, name: string) => {
    pairs.push([name, value]);
  });
  return pairs;
}
