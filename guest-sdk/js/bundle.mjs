#!/usr/bin/env node
// Bundles workers into the scripts that the runtime evaluates. A long-lived process: a request for each line of the
// input, a reply for each line of the output, in JSON. It keeps what esbuild knows of an entry, so that the second
// bundling of a worker costs a fraction of the first.
//
//   {"id":1,"entry":"/abs/src/index.ts","outdir":"/abs/out","flags":["nodejs_compat"],"minify":false}
//   {"id":1,"ok":true,"script":"/abs/out/worker.js","map":"/abs/out/worker.js.map","inputs":[…],"bytes":1,"warnings":[]}
//   {"id":1,"ok":false,"errors":[{"file","line","column","length","lineText","text","notes"}]}

import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { context } from "esbuild";
import { platform } from "./src/bundle/platform.mjs";
import { withoutProperties } from "./src/bundle/properties.mjs";

const LOADERS = {
  ".txt": "text",
  ".html": "text",
  ".sql": "text",
};

/** The entry that esbuild sees: it hands the module's exports to the wrapper, whatever they are and however it has them. */
const ENTRY = (path) => `import * as worker from ${JSON.stringify(path)};\n__worker_exports = worker;\n`;

// The script is evaluated, not loaded as a module: that makes it one for all workers of an engine. What a module has and
// a script has not, strictness and `await` at the top, the function around it provides. esbuild counts the line that
// this adds at the top, so the source map needs no shifting.
const HEAD = '(async () => { "use strict"; let __worker_exports;';
const TAIL = "return { ...__worker_exports };\n})()\n//# sourceURL=worker.js";

/** How many entries are kept ready for being bundled again. */
const KEPT = 64;

export class Bundler {
  #contexts = new Map();

  /** Bundles an entry, and says what came of it. Never throws for what is wrong with the worker. */
  async bundle({ entry, outdir, flags = [], minify = false }) {
    if (typeof entry !== "string" || !isAbsolute(entry)) return failure("`entry` is an absolute path");
    if (typeof outdir !== "string" || !isAbsolute(outdir)) return failure("`outdir` is an absolute path");
    if (!Array.isArray(flags)) return failure("`flags` is a list");
    try {
      const { context } = await this.#context(entry, outdir, flags, Boolean(minify));
      return await write(await context.rebuild(), entry, outdir);
    } catch (error) {
      if (!Array.isArray(error?.errors)) return failure(String(error?.message ?? error));
      return { ok: false, errors: error.errors.map((message) => diagnostic(message, entry)) };
    }
  }

  async #context(entry, outdir, flags, minify) {
    const key = JSON.stringify([entry, outdir, [...flags].sort(), minify]);
    let kept = this.#contexts.get(key);
    this.#contexts.delete(key);
    kept ??= { context: await context(options(entry, outdir, flags, minify)) };
    this.#contexts.set(key, kept);
    if (this.#contexts.size > KEPT) {
      const [oldest, unused] = this.#contexts.entries().next().value;
      this.#contexts.delete(oldest);
      await unused.context.dispose();
    }
    return kept;
  }

  async dispose() {
    for (const { context } of this.#contexts.values()) await context.dispose();
    this.#contexts.clear();
  }
}

function options(entry, outdir, flags, minify) {
  const nodejs = flags.some((flag) => flag === "nodejs_compat" || flag === "nodejs_compat_v2");
  return {
    stdin: { contents: ENTRY(entry), resolveDir: dirname(entry), sourcefile: "worker-entry", loader: "js" },
    absWorkingDir: dirname(entry),
    outfile: join(outdir, "worker.js"),
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: "es2022",
    conditions: ["workerd", "worker", "browser"],
    mainFields: ["browser", "module", "main"],
    loader: LOADERS,
    banner: { js: HEAD },
    footer: { js: TAIL },
    sourcemap: "external",
    sourcesContent: true,
    legalComments: "none",
    minify,
    keepNames: minify,
    metafile: true,
    write: false,
    logLevel: "silent",
    treeShaking: true,
    // `import()` of a name that is not known now would look for a file, which the engine cannot survive. A pattern of
    // the newest kinds, which the engine cannot read, becomes a call, and is written out where that is possible.
    supported: { "dynamic-import": false, "regexp-unicode-property-escapes": false, "regexp-set-notation": false },
    define: {
      "process.env.NODE_ENV": JSON.stringify(minify ? "production" : "development"),
      "navigator.userAgent": '"Cloudflare-Workers"',
      "import.meta.url": '"file:///worker.js"',
    },
    ...platform(nodejs),
  };
}

async function write(result, entry, outdir) {
  const script = join(outdir, "worker.js");
  const map = `${script}.map`;
  await mkdir(outdir, { recursive: true });
  const output = (path) => result.outputFiles.find((file) => file.path === path)?.contents ?? new Uint8Array(0);
  const text = Buffer.from(finished(output(script)));
  await replace(script, text);
  await replace(map, output(map));
  const inputs = Object.keys(result.metafile.inputs)
    .filter((path) => path !== "worker-entry" && path !== "<stdin>" && !path.startsWith("("))
    .map((path) => resolve(dirname(entry), path));
  const warnings = result.warnings.map((message) => diagnostic(message, entry));
  return { ok: true, script, map, inputs: [...new Set(inputs)], bytes: text.length, warnings };
}

/** The script as the engine can read it. What is added stands in its first line, which no source maps to. */
function finished(contents) {
  const text = Buffer.from(contents).toString();
  const { script, head } = withoutProperties(text);
  return head ? HEAD + head + script.slice(HEAD.length) : text;
}

/** Renamed into place, so that nobody reads half of it. */
async function replace(path, contents) {
  const part = `${path}.${process.pid}.part`;
  await writeFile(part, contents);
  await rename(part, path);
}

function failure(text) {
  return { ok: false, errors: [{ file: null, line: 0, column: 0, length: 0, lineText: "", text, notes: [] }] };
}

/** A message of esbuild. Lines count from 1, columns from 0, as esbuild has them. */
function diagnostic({ location, text, notes }, entry) {
  const inEntry = location?.file === "worker-entry" || location?.file === "<stdin>";
  return {
    file: location && !inEntry ? resolve(dirname(entry), location.file) : null,
    line: inEntry ? 0 : (location?.line ?? 0),
    column: inEntry ? 0 : (location?.column ?? 0),
    length: inEntry ? 0 : (location?.length ?? 0),
    lineText: inEntry ? "" : (location?.lineText ?? ""),
    text,
    notes: (notes ?? []).map((note) => note.text),
  };
}

async function serve() {
  const bundler = new Bundler();
  for await (const line of createInterface({ input: process.stdin })) {
    if (!line.trim()) continue;
    let id = null;
    let reply;
    try {
      const request = JSON.parse(line);
      id = request.id ?? null;
      reply = await bundler.bundle(request);
    } catch (error) {
      reply = failure(`not a request: ${error.message}`);
    }
    process.stdout.write(`${JSON.stringify({ id, ...reply })}\n`);
  }
  await bundler.dispose();
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) await serve();
