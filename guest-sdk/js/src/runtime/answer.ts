// The way of a response to the host. A body that is known whole goes with the head in one call; one that the host holds
// is named by its number; the rest is pumped.

import { bodyAbort, bodyEnd, bodyWrite, respond, respondHeld } from "workers:js/host@0.1.0";
import { logError } from "./console";
import { BODY } from "./message";
import { NOTHING, bytesOf, encoder, nativeFetch, type ByteStream } from "./natives";
import { LINES, type Response } from "./response";

/** Answers. The promise is there only where the body has to be pumped; it never rejects once the head has gone. */
export function answer(response: Response, method: string): Promise<void> | undefined {
  const body = response[BODY];
  if (response.bodyUsed) {
    throw new TypeError(
      "Body has already been used. It can only be used once. Use tee() first if you need to read it twice.",
    );
  }
  const { status } = response;
  if (status < 200) throw new TypeError("Response.error() is no response that a client can get.");
  if (method === "HEAD") return void answerHead(response);
  if (body.isNull) return void respond(status, response[LINES](null), NOTHING, false);
  const { whole, held } = body;
  if (whole !== undefined) {
    const bytes = typeof whole === "string" ? encoder.encode(whole) : whole;
    body.used = true;
    return void respond(status, response[LINES](null), bytes, false);
  }
  if (held !== undefined && respondHeld(status, response[LINES](null), held)) {
    body.used = true;
    return undefined;
  }
  const lines = response[LINES](body.length);
  const stream = body.stream() as ByteStream;
  const reader = stream.getReader();
  respond(status, lines, NOTHING, true);
  return pump(reader);
}

/** The head of what a GET would give. */
function answerHead(response: Response): void {
  const body = response[BODY];
  const { whole } = body;
  const said = response.headers.get("content-length");
  const length =
    whole === undefined
      ? (said ?? body.length)
      : String(typeof whole === "string" ? encoder.encode(whole).length : whole.length);
  body.discard();
  respond(response.status, response[LINES](length), NOTHING, false);
}

async function pump(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return bodyEnd();
      const piece = bytesOf(value);
      if (!piece)
        throw new TypeError(
          "This ReadableStream did not return bytes. Encode text with a TextEncoder, or pipe it through a TextEncoderStream.",
        );
      if (piece.length === 0) continue;
      const flow = bodyWrite(piece);
      if (flow === "wait") await nativeFetch(`${INTERNAL}/drain`);
      else if (flow === "closed") return void reader.cancel(new Error("The client has gone away.")).catch(() => {});
    }
  } catch (error) {
    logError("Uncaught (in response body)", error);
    bodyAbort();
    reader.cancel(error).catch(() => {});
  }
}
