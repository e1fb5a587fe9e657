// `multipart/form-data` (RFC 7578). The engine's own parser loses the contents of files.

import { decoder } from "./natives";

/** A character for each byte, so that searching is the engine's work and not the interpreter's. */
const latin1 = new TextDecoder("latin1");

/** Reads a form. `type` is its content type, which names the boundary. */
export function parseMultipart(bytes: Uint8Array, type: string): FormData {
  const found = /;\s*boundary=(?:"([^"]+)"|([^\s;"]+))/i.exec(type);
  const boundary = found?.[1] ?? found?.[2];
  if (!boundary)
    throw new TypeError("No boundary string in Content-Type header. The multipart/form-data cannot be read.");
  const text = latin1.decode(bytes);
  const mark = `--${boundary}`;
  const form = new FormData();
  let at = text.startsWith(mark) ? 0 : after(text.indexOf(`\r\n${mark}`), 2);
  for (;;) {
    at += mark.length;
    if (text.startsWith("--", at)) return form;
    const head = after(text.indexOf("\r\n", at), 2);
    const body = after(text.indexOf("\r\n\r\n", head - 2), 4);
    const end = after(text.indexOf(`\r\n${mark}`, body - 2), 0);
    append(form, decoder.decode(bytes.subarray(head, body)), bytes.subarray(body, Math.max(body, end)));
    at = end + 2;
  }
}

function after(position: number, length: number): number {
  if (position < 0) throw new TypeError("The multipart/form-data of the body is malformed or cut off.");
  return position + length;
}

function append(form: FormData, head: string, body: Uint8Array): void {
  let disposition = "";
  let type = "";
  for (const line of head.split("\r\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(0, colon)).trim().toLowerCase();
    if (name === "content-disposition") disposition = line.slice(colon + 1);
    else if (name === "content-type") type = line.slice(colon + 1).trim();
  }
  const name = parameter(disposition, "name");
  if (name === undefined) throw new TypeError("A part of the multipart/form-data has no name.");
  const filename = parameter(disposition, "filename");
  if (filename === undefined) form.append(name, decoder.decode(body));
  else
    form.append(
      name,
      new File([body as unknown as ArrayBuffer], filename, { type: type || "application/octet-stream" }),
    );
}

/** A parameter of a header. Browsers write quotes and line breaks in percent signs, others quotes after a backslash. */
function parameter(header: string, name: string): string | undefined {
  const found = new RegExp(`;\\s*${name}=(?:"((?:\\\\"|[^"])*)"|([^\\s;"]+))`, "i").exec(header);
  if (!found) return undefined;
  if (found[2] !== undefined) return found[2];
  const quoted = found[1] as string;
  return quoted
    .replace(/\\"|%22/g, '"')
    .replace(/%0D/gi, "\r")
    .replace(/%0A/gi, "\n");
}
