/** What the host offers, as `componentize-js` binds the WIT interface `workers:js/host`. */
declare module "workers:js/host@0.1.0" {
  type Flow = "more" | "wait" | "closed";
  function respond(status: number, headers: Uint8Array, body: Uint8Array, more: boolean): void;
  function respondHeld(status: number, headers: Uint8Array, held: number): boolean;
  function bodyWrite(piece: Uint8Array): Flow;
  function bodyEnd(): void;
  function bodyAbort(): void;
  function fail(): void;
  function log(level: number, text: Uint8Array): void;
}

declare module "urlpattern-polyfill/urlpattern" {
  export const URLPattern: unknown;
}

/** Where the host answers the runtime itself. Set when the runtime is built. */
declare const INTERNAL: string;
