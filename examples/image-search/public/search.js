/** The index: pictures with their vectors, and which of them fit a text. Knows nothing of the page. */

/** Pictures on their way to the model at once. */
const AT_ONCE = 2;

/** @typedef {{file: File, vector: number[]}} Entry */

/**
 * Looks at files, and tells of each one when it is done.
 *
 * @param {File[]} files
 * @param {AbortSignal} signal ends it
 * @param {(file: File, entry: Entry | undefined, fault: Error | undefined) => void} tell
 */
export async function look(files, signal, tell) {
  const waiting = files.values();
  const worker = async () => {
    for (const file of waiting) {
      try {
        const { vector } = await ask("/api/picture", { method: "POST", body: file, signal });
        tell(file, { file, vector });
      } catch (fault) {
        if (signal.aborted) return;
        // One file that is no picture does not keep the others from being found; a host that is gone does.
        if (!fault.ofTheFile) throw fault;
        tell(file, undefined, fault);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/**
 * Every picture with how well it fits a text, from -1 to 1, best first.
 *
 * @param {string} text
 * @param {Entry[]} entries
 * @returns {Promise<{entry: Entry, score: number}[]>}
 */
export async function search(text, entries) {
  const { vector } = await ask(`/api/text?${new URLSearchParams({ q: text })}`);
  const scored = entries.map((entry) => ({ entry, score: product(vector, entry.vector) }));
  return scored.sort((a, b) => b.score - a.score);
}

/** Of vectors of length 1, so it is the cosine of the angle between them. */
function product(a, b) {
  return a.reduce((sum, value, at) => sum + value * b[at], 0);
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (fault) {
    if (options.signal?.aborted) throw fault;
    throw new Error("The host cannot be reached. Is it running?", { cause: fault });
  }
  if (reply.ok) return reply.json();
  const fault = new Error(await reason(reply));
  fault.ofTheFile = reply.status === 400 || reply.status === 413;
  throw fault;
}

/** Why something was refused: the worker's words, the host's error page, or the status. */
async function reason(reply) {
  try {
    const { error } = await reply.json();
    const message = typeof error === "string" ? error : error.message;
    if (typeof message === "string" && message !== "") return message;
  } catch {
    // No JSON: the status has to do.
  }
  return `The host answered with status ${reply.status}.`;
}
