// Regular expressions with `\p{…}`. The engine has no tables of Unicode's properties, so the characters are written out
// here, where a bundled script names them: in literals, and in calls of `RegExp` with texts, which esbuild has made of
// some literals.

import { parse } from "acorn";
import rewrite from "regexpu-core";

const TEXT = /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\\n$]|\$(?!\{))*`/.source;
const CALL = new RegExp(`\\bnew RegExp\\((${TEXT}),\\s*(["'])([a-z]*)\\2\\)`, "g");

/**
 * A script without `\p{…}`, and declarations for its beginning. The written-out patterns stand there as functions, and a
 * call of one in the place of what named it, padded: so no column moves, and the source map stays right.
 */
export function withoutProperties(script) {
  if (!/\\p\{/i.test(script)) return { script, head: "" };
  let prefix = "__p";
  while (script.includes(prefix)) prefix += "_";
  const names = new Map();
  const named = (before, pattern, flags) => {
    const made = writtenOut(pattern, flags);
    if (made === undefined) return before;
    const name = names.get(made) ?? `${prefix}${names.size}`;
    names.set(made, name);
    return `${name}()`.padEnd(before.length);
  };
  const called = script.replace(CALL, (call, literal, quote, flags) =>
    /\\\\p\{/i.test(literal) ? named(call, text(literal), flags) : call,
  );
  const rewritten = replaceLiterals(called, named);
  const declared = [...names].map(([made, name]) => `${name}=()=>${made}`);
  return { script: rewritten, head: declared.length ? ` const ${declared.join(",")};` : "" };
}

function replaceLiterals(script, named) {
  // Most scripts have none left, and reading one as a program takes longer than bundling it.
  if (!/(^|[^\\])(\\\\)*\\p\{/im.test(script)) return script;
  let result = "";
  let at = 0;
  for (const token of regexps(script)) {
    const { pattern, flags } = token.value;
    if (!/\\p\{/i.test(pattern)) continue;
    const literal = script.slice(token.start, token.end);
    result += script.slice(at, token.start) + named(literal, pattern, flags);
    at = token.end;
  }
  return result + script.slice(at);
}

/** The literals of a script. Only a parser knows which slash begins one. */
function regexps(script) {
  const found = [];
  const onToken = (token) => token.type.label === "regexp" && found.push(token);
  try {
    parse(script, { ecmaVersion: "latest", onToken });
    return found;
  } catch {
    return [];
  }
}

/** The expression that stands for a pattern. None where it is no pattern: that is for the engine to say. */
function writtenOut(pattern, flags) {
  if (!/[uv]/.test(flags)) return undefined;
  try {
    let newFlags = flags;
    const written = rewrite(pattern, flags, {
      unicodePropertyEscapes: "transform",
      unicodeSetsFlag: flags.includes("v") ? "transform" : false,
      onNewFlags: (given) => (newFlags = given),
    });
    return `new RegExp(${JSON.stringify(written)},"${newFlags}")`;
  } catch {
    return undefined;
  }
}

/** The text that a literal of esbuild's stands for. */
function text(literal) {
  const inner = literal.slice(1, -1).replace(/\\u\{([\da-f]+)\}|\\(.)|"/gi, (found, point, escaped) => {
    if (point) return String.fromCodePoint(Number.parseInt(point, 16));
    if (escaped === undefined) return '\\"';
    return { x: "\\u00", v: "\\u000b", 0: "\\u0000", "'": "'", "`": "`", $: "$" }[escaped] ?? found;
  });
  return JSON.parse(`"${inner}"`);
}
