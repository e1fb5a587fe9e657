/** Asks the worker for an answer and reads it as it is written. Knows nothing of the page. */

/**
 * The pieces of the answer to a conversation.
 *
 * @param {{role: string, content: string}[]} messages
 * @param {AbortSignal} signal ends the answer and, on the host, the work behind it
 * @returns {AsyncGenerator<string>}
 * @throws {Error} with a message for the reader, unless `signal` was what ended it
 */
export async function* answer(messages, signal) {
  const response = await send(messages, signal);
  if (!response.ok) throw new Error(await reason(response));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    yield piece(data);
  }
  throw new Error("The answer broke off.");
}

async function send(messages, signal) {
  try {
    return await fetch("/api/chat", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages }),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The host cannot be reached. Is it running?", { cause: error });
  }
}

/** Why an answer was refused: the worker's words, the host's error page, or the status. */
async function reason(response) {
  try {
    const { error } = await response.json();
    const message = typeof error === "string" ? error : error.message;
    if (typeof message === "string" && message !== "") return message;
  } catch {
    // No JSON: the status has to do.
  }
  return `The host answered with status ${response.status}.`;
}

/** The `data` of each server-sent event. Chunks may be cut anywhere, in the middle of a character too. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice("data:".length).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function piece(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new Error("The host sent something that is no answer.");
  }
  if (event.error) throw new Error(event.error.message ?? "The model failed.");
  return typeof event.response === "string" ? event.response : "";
}
