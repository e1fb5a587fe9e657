// Speaks the bundler's protocol badly. What it does is the name of the entry without its extension.
import { closeSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { createInterface } from "node:readline";

const say = (value) => process.stdout.write(typeof value === "string" ? value : JSON.stringify(value) + "\n");

// How often the bundler was started and asked, for tests that count.
const count = (what) => writeFileSync(join(dirname(process.argv[1]), what), "x", { flag: "a" });
count("started");

const bundle = ({ id, entry, outdir, flags, minify }) => {
  const source = readFileSync(entry, "utf8");
  const [script, map] = [join(outdir, "worker.js"), join(outdir, "worker.js.map")];
  mkdirSync(outdir, { recursive: true });
  writeFileSync(script, `// ${flags.join(" ")} ${minify}\n${source}`);
  writeFileSync(map, JSON.stringify({ version: 3, sources: [], names: [], mappings: "" }));
  const used = source.split("\n").filter((line) => line.startsWith("use ")).map((line) => join(dirname(entry), line.slice(4)));
  const warnings = source.includes("odd") ? [{ file: "a.ts", line: 1, column: 0, length: 1, lineText: "x", text: "odd" }] : [];
  return { id, ok: true, script, map, inputs: [entry, ...used], bytes: 1, warnings };
};

const behaviours = {
  noisy: (request) => {
    say("(node:1) Warning: something\n\n{not json\n[1,2]\n{\"id\":\"x\"}\n");
    say({ id: 9999, ok: true });
    say(bundle(request));
  },
  silent: () => {},
  dies: () => {
    process.stderr.write("\x1b[31mout of memory\x1b[0m\n");
    process.exit(7);
  },
  "dies-later": (request) => {
    say(bundle(request));
    setTimeout(() => process.exit(0), 10);
  },
  "closes-stdout": () => closeSync(1),
  huge: () => {
    const piece = "x".repeat(1 << 16);
    const more = () => process.stdout.write(piece, more);
    more();
  },
  faulty: ({ id }) =>
    say({
      id,
      ok: false,
      errors: [
        { file: "src/index.ts", line: 3, column: 14, length: 5, lineText: "import x from './y'", text: "Could not resolve \"./y\"", notes: [] },
        { file: "", line: 0, column: 0, length: 0, lineText: "", text: "and more", notes: [{ text: "why" }] },
      ],
    }),
  wordless: ({ id }) => say({ id, ok: false }),
  mistyped: ({ id }) => say({ id, ok: "yes" }),
  elsewhere: (request) => {
    const reply = bundle(request);
    say({ ...reply, script: request.entry });
  },
  scriptless: ({ id }) => say({ id, ok: true }),
  relative: (request) => say({ ...bundle(request), inputs: ["index.ts"] }),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  count("asked");
  const behaviour = behaviours[basename(request.entry, extname(request.entry))] ?? ((request) => say(bundle(request)));
  behaviour(request);
});
