// What the engine brought along, remembered before the runtime puts its own classes in front of it and before a worker
// can replace anything.

export const NativeRequest = globalThis.Request;
export const NativeResponse = globalThis.Response;
export const NativeHeaders = Headers;
export const nativeFetch = globalThis.fetch;
export const native = {
  setTimeout: globalThis.setTimeout as unknown as (callback: () => void, delay?: number) => number,
  setInterval: globalThis.setInterval as unknown as (callback: () => void, delay?: number) => number,
  clearTimeout: globalThis.clearTimeout as (id: number) => void,
  clearInterval: globalThis.clearInterval as (id: number) => void,
  queueMicrotask: globalThis.queueMicrotask,
};

export type NativeResponse = globalThis.Response;
export type NativeHeaders = Headers;

/** A body in pieces. The engine knows no other kind of piece in requests and responses. */
export type ByteStream = ReadableStream<Uint8Array>;

export const encoder = new TextEncoder();
export const decoder = new TextDecoder();
export const NOTHING = new Uint8Array(0);

/** Bytes of a buffer or of the part of it that a view shows; undefined for anything else. Nothing is copied. */
export function bytesOf(value: unknown): Uint8Array | undefined {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return undefined;
}
