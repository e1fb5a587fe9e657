// Runs the component of the runtime in Node, with a host of plain objects behind it.

import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { transpile } from "@bytecodealliance/jco";
import { WASIShim } from "@bytecodealliance/preview2-shim/instantiation";
import { buildRuntime } from "../build-runtime.mjs";

const text = (bytes) => new TextDecoder().decode(bytes);

export async function startServer() {
  const worker = new Worker(new URL("server.mjs", import.meta.url));
  const port = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  return { url: `http://127.0.0.1:${port}`, close: () => worker.terminate() };
}

/** Builds the runtime for a server and makes it ready to be started any number of times. */
export async function prepare(internal) {
  const directory = await mkdtemp(join(tmpdir(), "workers-js-test-"));
  const wasm = join(directory, "runtime.wasm");
  await buildRuntime(wasm, { internal });
  const { files } = await transpile(await readFile(wasm), {
    name: "runtime",
    map: { "workers:js/host": "host" },
    instantiation: "async",
  });
  const modules = new Map();
  for (const [name, contents] of Object.entries(files)) {
    if (name.endsWith(".wasm")) modules.set(name, new WebAssembly.Module(contents));
    else {
      await mkdir(dirname(join(directory, name)), { recursive: true });
      await writeFile(join(directory, name), contents);
    }
  }
  await writeFile(join(directory, "package.json"), '{"type":"module"}');
  const { instantiate } = await import(pathToFileURL(join(directory, "runtime.js")));
  return {
    instance: () => Instance.make(instantiate, modules),
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}

const LEVELS = ["debug", "info", "warn", "error"];

/** An instance, and what it told its host. */
class Instance {
  logs = [];
  answers = [];
  /** What `body-write` returns, the last one for good. */
  flows = ["more"];
  holds = true;

  static async make(instantiate, modules) {
    const instance = new Instance();
    const wasi = new WASIShim().getImportObject();
    const exports = await instantiate((name) => modules.get(name), { ...wasi, host: instance.host() });
    instance.exports = exports;
    return instance;
  }

  host() {
    const answer = () => this.answers.at(-1);
    return {
      respond: (status, lines, body, more) => {
        this.answers.push({
          status,
          headers: pairs(lines),
          pieces: more ? [] : [body.slice()],
          more,
          end: more ? "" : "whole",
        });
      },
      respondHeld: (status, lines, held) => {
        if (this.holds) this.answers.push({ status, headers: pairs(lines), held, pieces: [], end: "held" });
        return this.holds;
      },
      bodyWrite: (piece) => {
        answer().pieces.push(piece.slice());
        return this.flows.length > 1 ? this.flows.shift() : this.flows[0];
      },
      bodyEnd: () => void (answer().end = "end"),
      bodyAbort: () => void (answer().end = "abort"),
      fail: () => void this.answers.push({ failed: true, end: "fail" }),
      log: (level, line) => void this.logs.push([LEVELS[level], text(line)]),
    };
  }

  /** Starts a script, which is an expression as `bundle.mjs` writes it. */
  async start(script, configuration = {}) {
    const encoder = new TextEncoder();
    await this.exports.start(
      encoder.encode(`${script}\n//# sourceURL=worker.js`),
      encoder.encode(JSON.stringify(configuration)),
    );
    return this;
  }

  /** Handles a request, and gives what it was answered. */
  async handle(url = "/", { method = "GET", headers = {}, body, more = false } = {}) {
    const lines = Object.entries(headers)
      .map(([name, value]) => `${name}\0${value}\n`)
      .join("");
    const bytes = body === undefined ? undefined : new TextEncoder().encode(body);
    await this.exports.handle(method, `http://worker.test${url}`, lines, bytes, more);
    const answer = this.answers.pop();
    if (answer?.pieces) answer.text = Buffer.concat(answer.pieces).toString();
    return answer;
  }
}

function pairs(lines) {
  const found = text(lines).split("\n").filter(Boolean);
  return found.map((line) => line.split("\0"));
}
