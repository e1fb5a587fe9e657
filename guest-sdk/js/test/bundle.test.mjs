// The bundler: what it makes of a worker, and what it says of one that is wrong.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { SourceMap } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { format, inspect } from "node:util";
import { Bundler } from "../bundle.mjs";

const bundler = new Bundler();
let root;
let made = 0;

before(async () => {
  root = await mkdtemp(join(tmpdir(), "workers-js-bundle-"));
  const shown = { inspect, format: (values) => format(...values) };
  globalThis[Symbol.for("host.workers")] = { vars: { NAME: "value" }, WorkerEntrypoint: class {}, ...shown };
});
after(async () => {
  await bundler.dispose();
  await rm(root, { recursive: true, force: true });
});

async function project(files) {
  const directory = join(root, `p${made++}`);
  for (const [name, contents] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), contents);
  }
  const entry = join(directory, Object.keys(files)[0]);
  return { directory, entry, outdir: join(directory, "out") };
}

async function bundle(files, options = {}) {
  const place = await project(files);
  return { ...place, ...(await bundler.bundle({ ...place, ...options })) };
}

/** The exports of a bundled script, which Node evaluates as the runtime does. */
async function exportsOf(bundled) {
  assert.equal(bundled.ok, true, JSON.stringify(bundled.errors));
  return (0, eval)(await readFile(bundled.script, "utf8"));
}

test("TypeScript, with every kind of export", async () => {
  const bundled = await bundle({
    "index.ts": `import { name } from "./name";
      enum Kind { A = 1 }
      export const Named: number = Kind.A;
      export { name as "with-dash" };
      export default { name };`,
    "name.ts": `export const name: string = "n";`,
  });
  assert.deepEqual({ ...(await exportsOf(bundled)) }, { Named: 1, "with-dash": "n", default: { name: "n" } });
  assert.deepEqual(bundled.inputs.map((path) => path.slice(bundled.directory.length)).sort(), [
    "/index.ts",
    "/name.ts",
  ]);
  const script = await readFile(bundled.script);
  assert.equal(bundled.bytes, script.length);
  assert.match(String(script), /^\(async \(\) => \{/);
  assert.match(String(script), /\}\)\(\)\n\/\/# sourceURL=worker\.js\n?$/);
});

test("no exports, CommonJS and minified output", async () => {
  assert.deepEqual({ ...(await exportsOf(await bundle({ "index.js": "globalThis.loaded = true; export {};" }))) }, {});
  const common = await exportsOf(await bundle({ "index.js": "module.exports = { fetch() { return 1; } };" }));
  assert.equal(common.default.fetch(), 1);
  const small = await bundle({ "index.ts": "export const a = 1; export default class Long {}" }, { minify: true });
  const { a, default: Long } = await exportsOf(small);
  assert.deepEqual([a, Long.name], [1, "Long"]);
});

test("JSX as tsconfig.json says", async () => {
  const bundled = await bundle({
    "index.tsx": `export default <b>{1}</b>;`,
    "tsconfig.json": `{"compilerOptions":{"jsx":"react-jsx","jsxImportSource":"tiny"}}`,
    "node_modules/tiny/package.json": `{"name":"tiny","exports":{"./jsx-runtime":"./runtime.js"}}`,
    "node_modules/tiny/runtime.js": `export const jsx = (name, { children }) => name + children;`,
  });
  assert.equal((await exportsOf(bundled)).default, "b1");
});

test("JSON, text and bytes", async () => {
  const bundled = await bundle({
    "index.ts": `import json from "./a.json"; import html from "./a.html"; import sql from "./a.sql"; import bin from "./a.bin";
      export default { json, html, sql, bin };`,
    "a.json": `{"a":[1]}`,
    "a.html": "<b>",
    "a.sql": "SELECT 1",
    "a.bin": Buffer.from([0, 255, 10]),
  });
  const { json, html, sql, bin } = (await exportsOf(bundled)).default;
  assert.deepEqual([json, html, sql], [{ a: [1] }, "<b>", "SELECT 1"]);
  assert.ok(bin instanceof ArrayBuffer);
  assert.deepEqual([...new Uint8Array(bin)], [0, 255, 10]);
});

test("await at the top, and strictness", async () => {
  const bundled = await bundle({
    "index.ts": `const value = await Promise.resolve(5); export default { value, strict: (function () { return this === undefined; })() };`,
  });
  assert.deepEqual((await exportsOf(bundled)).default, { value: 5, strict: true });
});

test("conditions prefer a package's file for workers", async () => {
  const bundled = await bundle({
    "index.ts": `import where from "pkg"; export default where;`,
    "node_modules/pkg/package.json": `{"name":"pkg","exports":{"workerd":"./w.js","browser":"./b.js","default":"./d.js"}}`,
    "node_modules/pkg/w.js": `export default "workerd";`,
    "node_modules/pkg/b.js": `export default "browser";`,
    "node_modules/pkg/d.js": `export default "default";`,
  });
  assert.equal((await exportsOf(bundled)).default, "workerd");
});

test("a syntax error has its place", async () => {
  const { ok, errors, entry } = await bundle({ "index.ts": `const fine = 1;\nconst q: = 3;\nexport default {};` });
  assert.equal(ok, false);
  assert.deepEqual(errors, [
    { file: entry, line: 2, column: 9, length: 1, lineText: "const q: = 3;", text: 'Unexpected "="', notes: [] },
  ]);
});

test("a missing entry and bad requests are errors", async () => {
  const { ok, errors } = await bundler.bundle({ entry: join(root, "none.ts"), outdir: join(root, "out") });
  assert.equal(ok, false);
  assert.match(errors[0].text, /none\.ts/);
  for (const request of [
    {},
    { entry: "a.ts", outdir: root },
    { entry: join(root, "a"), outdir: "b" },
    { entry: root, outdir: root, flags: "x" },
  ]) {
    assert.equal((await bundler.bundle(request)).ok, false);
  }
});

test("imports that cannot be are errors that say what to do", async () => {
  const cases = {
    "node:fs": /node:fs.*compatibility_flags = \["nodejs_compat"\]/,
    buffer: /buffer.*compatibility_flags = \["nodejs_compat"\]/,
    "cloudflare:sockets": /cloudflare:sockets.*cloudflare:workers/,
    "./a.wasm": /a\.wasm.*does not run WebAssembly/,
    nothing: /Could not resolve "nothing"/,
  };
  for (const [name, expected] of Object.entries(cases)) {
    const { ok, errors, entry } = await bundle({
      "index.js": `import x from ${JSON.stringify(name)};\nexport default x;`,
    });
    assert.equal(ok, false, name);
    assert.match(errors[0].text, expected);
    assert.deepEqual([errors[0].file, errors[0].line], [entry, 1]);
  }
  const { errors } = await bundle(
    { "index.js": `import x from "node:nothing"; export default x;` },
    { flags: ["nodejs_compat"] },
  );
  assert.match(errors[0].text, /node:nothing/);
});

test("a package with the name of a Node module is found", async () => {
  const bundled = await bundle({
    "index.js": `import x from "events"; export default x;`,
    "node_modules/events/package.json": `{"name":"events","main":"index.js"}`,
    "node_modules/events/index.js": `module.exports = "package";`,
  });
  assert.equal((await exportsOf(bundled)).default, "package");
});

test("Node's modules with nodejs_compat", async () => {
  const bundled = await bundle(
    {
      "index.js": `import { EventEmitter } from "node:events"; import { format } from "util"; import path from "node:path";
        import { AsyncLocalStorage } from "node:async_hooks"; import { Buffer as Other } from "buffer"; import assert from "node:assert";
        const storage = new AsyncLocalStorage();
        const emitter = new EventEmitter();
        let got;
        emitter.on("x", (value) => (got = value));
        emitter.emit("x", 3);
        assert.ok(Other === Buffer);
        export default {
          values: [Buffer.from("hi").toString("base64"), got, format("%s-%d", "a", 1), path.join("a", "..", "b"), process.env.NAME],
          stored: await storage.run(7, async () => { await null; return storage.getStore(); }),
          after: storage.getStore(),
        };`,
    },
    { flags: ["nodejs_compat"] },
  );
  const { values, stored, after } = (await exportsOf(bundled)).default;
  assert.deepEqual(values, ["aGk=", 3, "a-1", "b", "value"]);
  assert.deepEqual([stored, after], [7, undefined]);
});

test("cloudflare:workers is the runtime's", async () => {
  const bundled = await bundle({
    "index.ts": `import { WorkerEntrypoint } from "cloudflare:workers"; export default WorkerEntrypoint;`,
  });
  assert.equal((await exportsOf(bundled)).default, globalThis[Symbol.for("host.workers")].WorkerEntrypoint);
});

test("the source map finds lines and columns", async () => {
  for (const minify of [false, true]) {
    const bundled = await bundle(
      { "index.ts": `type T = 1;\n\nexport default {\n  fetch() {\n    throw new Error("here");\n  },\n};` },
      { minify },
    );
    const lines = (await readFile(bundled.script, "utf8")).split("\n");
    const line = lines.findIndex((text) => text.includes("new Error"));
    const map = new SourceMap(JSON.parse(await readFile(bundled.map, "utf8")));
    const found = map.findEntry(line, lines[line].indexOf("new Error"));
    assert.equal(found.originalLine, 4, `minify: ${minify}`);
    assert.equal(found.originalColumn, 10, `minify: ${minify}`);
    assert.match(found.originalSource, /index\.ts$/);
    assert.ok(map.payload.sourcesContent.some((text) => text.includes("type T")));
  }
});

test("an import of a name that is not known stays an error of the program", async () => {
  const bundled = await bundle({ "index.js": `export default (name) => import(name);` });
  assert.doesNotMatch(await readFile(bundled.script, "utf8"), /\bimport\(/);
});

test("bundles again after a change, also after an error", async () => {
  const place = await project({ "index.ts": `export { default } from "./a";`, "a.ts": "export default 1;" });
  const value = async () => {
    const bundled = await bundler.bundle(place);
    return bundled.ok ? (await exportsOf(bundled)).default : bundled.errors[0].text;
  };
  assert.equal(await value(), 1);
  await writeFile(join(place.directory, "a.ts"), "export default 2;");
  assert.equal(await value(), 2);
  await writeFile(join(place.directory, "a.ts"), "export default ;");
  assert.match(await value(), /Unexpected/);
  await writeFile(join(place.directory, "a.ts"), "export default 3;");
  assert.equal(await value(), 3);
});

test("the process answers line by line", async () => {
  const place = await project({ "index.ts": "export default 1;" });
  const program = fileURLToPath(new URL("../bundle.mjs", import.meta.url));
  const child = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  child.stdin.end(`${JSON.stringify({ id: 7, entry: place.entry, outdir: place.outdir })}\nnot json\n\n{"id":"b"}\n`);
  const replies = [];
  for await (const line of createInterface({ input: child.stdout })) replies.push(JSON.parse(line));
  assert.deepEqual(
    replies.map(({ id, ok }) => [id, ok]),
    [
      [7, true],
      [null, false],
      ["b", false],
    ],
  );
  assert.equal(await exited, 0);
});

test("properties of Unicode are written out, and nothing moves", async () => {
  const bundled = await bundle({
    "index.js": String.raw`export default {
      literal: /^\p{Letter}+$/u.test("grüße"),
      inside: 8 / 2 + "grüße, ja".match(/[\p{L}\p{N}]+/gu).length / 1,
      not: /\P{L}/u.test("grüße"),
      sets: /^[\p{L}--[a-z]]$/v.test("a"),
      called: new RegExp('["\'\\p{Lu}]', "gu").exec("aÄ").index,
      double: new RegExp("^\\p{L}'\u{1f600}\\x41$", "u").test("ä'\u{1f600}A"),
      plain: "\\p{L}",
    };
    export const place = () => new Error("x").stack;`,
  });
  const script = await readFile(bundled.script, "utf8");
  assert.ok(!/RegExp\(|\/u/.test(script.split("\n").slice(1).join()), script.slice(-900));
  const exports = await exportsOf(bundled);
  assert.deepEqual(exports.default, {
    literal: true,
    inside: 6,
    not: false,
    sets: false,
    called: 1,
    double: true,
    plain: "\\p{L}",
  });
  const [, line, column] = /worker\.js:(\d+):(\d+)/.exec(exports.place());
  const map = new SourceMap(JSON.parse(await readFile(bundled.map, "utf8")));
  const origin = map.findEntry(Number(line) - 1, Number(column) - 1);
  assert.deepEqual([origin.originalLine, origin.originalColumn], [9, 31]);
});
