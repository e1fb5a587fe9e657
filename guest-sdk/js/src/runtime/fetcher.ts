// Bindings that answer requests: other workers, and files.

import { HELD, bodyOf, send } from "./fetch";
import { toHeaders } from "./headers";
import { BODY, HEADERS } from "./message";
import { Request, signalOf } from "./request";
import { fromNative, type Response } from "./response";
import { refuseInGlobalScope } from "./state";

const NAME = Symbol("name");

export class Fetcher {
  declare private [NAME]: string;

  constructor(name: string) {
    this[NAME] = name;
  }

  /** Redirects are not followed: what answers is the worker's own, and so is what it points at. */
  async fetch(input: unknown, init?: ConstructorParameters<typeof Request>[1]): Promise<Response> {
    refuseInGlobalScope();
    const request = input instanceof Request && !init ? input : new Request(input, init);
    const signal = signalOf(request);
    const headers = toHeaders(request[HEADERS].list());
    headers.set("x-url", request.url);
    const url = `${INTERNAL}/binding/${encodeURIComponent(this[NAME])}/fetch`;
    const native = await send(url, { method: request.method, headers, body: request[BODY].forEngine(), signal });
    return fromNative(native, bodyOf(native, signal), request.url, false, HELD);
  }

  connect(): never {
    throw new Error("connect() is not supported: this host opens no sockets for workers.");
  }
}
