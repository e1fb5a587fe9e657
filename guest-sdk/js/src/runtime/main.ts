// The exports of the world `worker`. Nothing that a worker does may leave here as an exception: it would end the
// instance, and the log would show the engine's words for it instead of the worker's.

import { fail } from "workers:js/host@0.1.0";
import { answer } from "./answer";
import { endGroups, logError } from "./console";
import { Worker } from "./entrypoints";
import { makeEnv, type Configuration } from "./env";
import { install, publish } from "./globals";
import { errorText } from "./inspect";
import { decoder, encoder } from "./natives";
import { MessageBatch } from "./queue";
import { incomingRequest } from "./request";
import { Response } from "./response";
import { ExecutionContext, hasWaits, phase, setCurrent, settled } from "./state";
import { clearTimers } from "./timers";

install();

let worker: Worker;

export async function start(script: Uint8Array, configuration: Uint8Array): Promise<void> {
  phase.inGlobalScope = true;
  try {
    const parsed = JSON.parse(decoder.decode(configuration)) as Configuration;
    const env = makeEnv(parsed);
    publish(env, parsed);
    const evaluate = eval;
    const exports = (await evaluate(decoder.decode(script))) as Record<string, unknown>;
    worker = Worker.from(exports, env);
  } catch (error) {
    // A text is the error of the WIT function; an `Error` would be a trap.
    throw typeof error === "string" ? error : syntaxPlace(error);
  } finally {
    phase.inGlobalScope = false;
    endGroups();
  }
}

/** A syntax error has no frame in the script that it is about; its place stands in properties of its own. */
function syntaxPlace(error: unknown): string {
  const text = errorText(error);
  const { lineNumber, columnNumber } = error as { lineNumber?: number; columnNumber?: number };
  const placed = error instanceof SyntaxError && lineNumber !== undefined && !text.includes("worker.js:");
  return placed ? `${text}\n    at worker.js:${lineNumber}:${columnNumber}` : text;
}

export async function handle(
  method: string,
  url: string,
  lines: string,
  body: Uint8Array | undefined,
  more: boolean,
): Promise<void> {
  const context = new ExecutionContext();
  setCurrent(context);
  try {
    const request = incomingRequest({ method, url, lines, body, more });
    let response = worker.call("fetch", request, context);
    if (!(response instanceof Response)) response = await response;
    if (!(response instanceof Response)) {
      throw new TypeError("Incorrect type for Promise: the Promise did not resolve to 'Response'.");
    }
    const pumped = answer(response, method);
    if (pumped) await pumped;
  } catch (error) {
    logError("Uncaught", error);
    fail();
  }
  await end(context);
}

/** What is not a request. Gives what the host is to know of it, in JSON. */
export async function event(kind: string, payload: Uint8Array): Promise<Uint8Array> {
  const context = new ExecutionContext();
  setCurrent(context);
  let answer = "null";
  try {
    answer = await dispatch(kind, JSON.parse(decoder.decode(payload)), context);
  } catch (error) {
    logError("Uncaught", error);
    await end(context);
    throw errorText(error);
  }
  await end(context);
  return encoder.encode(answer);
}

async function dispatch(kind: string, payload: unknown, context: ExecutionContext): Promise<string> {
  switch (kind) {
    case "scheduled": {
      const { scheduledTime, cron } = payload as { scheduledTime: number; cron: string };
      await worker.call("scheduled", { scheduledTime, cron, type: "scheduled", noRetry() {} }, context);
      return "null";
    }
    case "queue": {
      const batch = new MessageBatch(payload as ConstructorParameters<typeof MessageBatch>[0]);
      try {
        await worker.call("queue", batch, context);
      } catch (error) {
        // What was said of single messages before counts all the same.
        logError("Uncaught", error);
        return MessageBatch.answer(batch, errorText(error));
      }
      return MessageBatch.answer(batch);
    }
    default:
      throw new TypeError(`The JavaScript runtime does not know events of the kind ${kind}.`);
  }
}

async function end(context: ExecutionContext): Promise<void> {
  if (hasWaits(context)) await settled(context);
  clearTimers();
  endGroups();
  setCurrent(undefined);
}
