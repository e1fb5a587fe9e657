#!/usr/bin/env node
// Makes the engine that all JavaScript workers share: StarlingMonkey with the runtime of `src/runtime`, initialised and
// stored as a component.
//
//   node build-runtime.mjs OUT.wasm [--wit DIR] [--internal URL]

import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { componentize } from "@bytecodealliance/componentize-js";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

// The engine has no tables for Unicode's properties, and a pattern that names one is a syntax error of the whole script.
// Identifiers in URL patterns may then hold any letter beyond ASCII, and a few characters more.
const withoutUnicodeProperties = {
  name: "without-unicode-properties",
  setup(build) {
    build.onLoad({ filter: /urlpattern-polyfill[\\/]dist[\\/]urlpattern\.js$/ }, async ({ path }) => {
      const text = await readFile(path, "utf8");
      const letters = "A-Za-z\\u00aa-\\uffff";
      const contents = text.replaceAll("\\p{ID_Start}", letters).replaceAll("\\p{ID_Continue}", `${letters}0-9_`);
      if (contents === text || contents.includes("\\p{")) throw new Error("urlpattern-polyfill is not as expected");
      return { contents, loader: "js" };
    });
  },
};

export async function buildRuntime(
  out,
  { wit = join(here, "../../wit/deps/workers-js@0.1.0"), internal = "http://workers.internal" } = {},
) {
  const began = Date.now();
  const work = await mkdtemp(join(tmpdir(), "workers-js-"));
  try {
    const source = join(work, "runtime.mjs");
    await build({
      entryPoints: [join(here, "src/runtime/main.ts")],
      outfile: source,
      bundle: true,
      format: "esm",
      platform: "neutral",
      target: "es2022",
      external: ["workers:js/host@0.1.0"],
      define: { INTERNAL: JSON.stringify(internal) },
      plugins: [withoutUnicodeProperties],
      logLevel: "warning",
      tsconfig: join(here, "tsconfig.json"),
    });
    const { component } = await componentize({
      sourcePath: source,
      witPath: resolve(wit),
      worldName: "worker",
      disableFeatures: ["fetch-event"],
    });
    await mkdir(dirname(resolve(out)), { recursive: true });
    // Renamed into place, so that nobody reads half of it.
    const part = `${resolve(out)}.${process.pid}.part`;
    await writeFile(part, component);
    await rename(part, resolve(out));
    return { bytes: component.length, ms: Date.now() - began };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const options = { wit: { type: "string" }, internal: { type: "string" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 1) {
    console.error("usage: node build-runtime.mjs OUT.wasm [--wit DIR] [--internal URL]");
    process.exit(64);
  }
  console.log(JSON.stringify(await buildRuntime(positionals[0], values)));
}
