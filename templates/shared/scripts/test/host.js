/** A host to test against. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const READY = "Ready on ";

/**
 * `HOST_URL` if it is set; else a host of its own, which serves `wrangler.test.toml` on a free port until `stop`
 * and keeps what it stores in a folder that goes with it.
 * `HOST_BIN` names the program, which is `host` by default.
 *
 * @returns {Promise<{url: string, stop: () => Promise<void>}>}
 */
export async function startHost() {
  if (process.env.HOST_URL) return { url: process.env.HOST_URL, stop: async () => {} };
  const state = await mkdtemp(join(tmpdir(), "host-test-"));
  const child = spawn(
    process.env.HOST_BIN ?? "host",
    ["serve", "--config", "wrangler.test.toml", "--port", "0", "--ip", "127.0.0.1", "--persist-to", state],
    { cwd: fileURLToPath(new URL("..", import.meta.url)), stdio: ["ignore", "pipe", "pipe"] },
  );
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (log += text));
  const exited = once(child, "exit");
  const stop = async () => {
    child.kill();
    await exited;
    await rm(state, { recursive: true, force: true });
  };
  // Rejects when the program cannot be started at all.
  const url = await Promise.race([ready(child.stdout), exited.then(() => undefined)]);
  if (url === undefined) throw new Error(`the host ended before it was ready:\n${log}`);
  // What else the host prints has to be read, or it would wait for a reader.
  child.stdout.resume();
  return { url, stop };
}

async function ready(stdout) {
  for await (const line of createInterface({ input: stdout })) {
    if (line.trim().startsWith(READY)) return line.trim().slice(READY.length);
  }
  return undefined;
}
