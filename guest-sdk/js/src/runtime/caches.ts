// `caches`: in the memory of the instance, so it is gone when the instance is. It saves work within a burst of
// requests; it is not a place to keep things.

import { Request } from "./request";
import { Response } from "./response";
import { BODY } from "./message";

const LIMIT = 16 * 1024 * 1024;
/** What an entry weighs besides its body. */
const OVERHEAD = 512;

interface Entry {
  status: number;
  headers: [string, string][];
  body: Uint8Array;
  expires: number;
  size: number;
}

/** Least recently used first. Shared by all caches, as their names are part of the key. */
const entries = new Map<string, Entry>();
let total = 0;

function remove(key: string): boolean {
  const entry = entries.get(key);
  if (!entry) return false;
  total -= entry.size;
  return entries.delete(key);
}

export class Cache {
  constructor(private readonly name: string) {}

  private key(input: unknown, ignoreMethod = false): string | undefined {
    const request = input instanceof Request ? input : new Request(input);
    const url = new URL(request.url);
    url.hash = "";
    return request.method === "GET" || ignoreMethod ? `${this.name} ${url.href}` : undefined;
  }

  async put(input: unknown, response: Response): Promise<void> {
    const key = this.key(input);
    if (key === undefined) throw new TypeError("Cannot cache response to non-GET request.");
    if (response.status === 206) throw new TypeError("Cannot cache response to a range request (206 Partial Content).");
    if (response.headers.get("vary")?.includes("*"))
      throw new TypeError("Cannot cache response with 'Vary: *' header.");
    const seconds = lifetime(response);
    if (seconds <= 0) return response[BODY].discard();
    const body = await response.bytes();
    const size = body.length + key.length + OVERHEAD;
    remove(key);
    if (size > LIMIT) return;
    while (total + size > LIMIT) remove(entries.keys().next().value as string);
    const headers = [...(response.headers as Iterable<[string, string]>)];
    entries.set(key, { status: response.status, headers, body, expires: Date.now() + seconds * 1000, size });
    total += size;
  }

  async match(input: unknown, options?: { ignoreMethod?: boolean }): Promise<Response | undefined> {
    const key = this.key(input, options?.ignoreMethod);
    const entry = key === undefined ? undefined : entries.get(key);
    if (!entry || key === undefined) return undefined;
    if (entry.expires <= Date.now()) {
      remove(key);
      return undefined;
    }
    entries.delete(key);
    entries.set(key, entry);
    const empty = entry.body.length === 0;
    return new Response(empty ? null : entry.body, {
      status: entry.status,
      headers: [...entry.headers, ["cf-cache-status", "HIT"]],
    });
  }

  async delete(input: unknown, options?: { ignoreMethod?: boolean }): Promise<boolean> {
    const key = this.key(input, options?.ignoreMethod);
    return key !== undefined && remove(key);
  }
}

/** For how many seconds a response may be kept. */
function lifetime(response: Response): number {
  const { headers } = response;
  if (headers.has("set-cookie") && !/private=("?)set-cookie\1/i.test(headers.get("cache-control") ?? "")) return 0;
  const control = headers.get("cache-control")?.toLowerCase() ?? "";
  if (/\bno-store\b|\bno-cache\b|\bprivate\b(?!=)/.test(control)) return 0;
  const age = /\bs-maxage="?(\d+)/.exec(control) ?? /\bmax-age="?(\d+)/.exec(control);
  if (age) return Number(age[1]);
  const expires = Date.parse(headers.get("expires") ?? "");
  return Number.isNaN(expires) ? Infinity : (expires - Date.now()) / 1000;
}

export const caches = {
  default: new Cache("default"),
  async open(name: string): Promise<Cache> {
    return new Cache(`named ${name}`);
  },
};
