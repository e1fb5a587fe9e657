// Values as text, for the log. Bounded in depth, in the number of entries and in length: what is logged comes from
// requests and models.

const MAX_DEPTH = 3;
const MAX_ENTRIES = 100;
const MAX_STRING = 10_000;
const WIDTH = 76;

/** An error as the log shows it: name, message, the frames of the worker's own code, and the causes. */
export function errorText(error: unknown): string {
  try {
    return error instanceof Error ? describeError(error, 0, []) : inspect(error);
  } catch {
    return "an exception that cannot be shown";
  }
}

function describeError(error: Error, depth: number, seen: object[]): string {
  let text = `${error.name}: ${error.message}`;
  const frames = framesOf(error);
  if (frames.length) text += "\n" + frames.join("\n");
  const extra = ownEntries(error).filter(([key]) => !HIDDEN.has(key));
  if (extra.length && depth <= MAX_DEPTH) {
    text += ` {${extra.map(([key, value]) => ` ${keyText(key)}: ${show(value, depth + 1, [...seen, error])}`).join(",")} }`;
  }
  if (error.cause !== undefined && depth < MAX_DEPTH) {
    text += `\n  [cause]: ${show(error.cause, depth + 1, [...seen, error])}`;
  }
  if (error instanceof AggregateError && depth < MAX_DEPTH) {
    text += `\n  [errors]: ${show(error.errors, depth + 1, [...seen, error])}`;
  }
  return text;
}

const HIDDEN = new Set(["stack", "cause", "message", "name", "fileName", "lineNumber", "columnNumber", "errors"]);

/** The engine writes `name@file:line:column`; readers and their tools know the other form. */
export function framesOf(error: Error): string[] {
  const frames: string[] = [];
  for (const line of String(error.stack ?? "").split("\n")) {
    const match = /^(.*)@(.*worker\.js:\d+:\d+)$/.exec(line.trim());
    if (!match) continue;
    const name = (match[1] ?? "").replace(/^async\*/, "async ").trim();
    frames.push(name ? `    at ${name} (${match[2]})` : `    at ${match[2]}`);
  }
  return frames.slice(0, 20);
}

/** Any value on one line or a few. */
export function inspect(value: unknown): string {
  return show(value, 0, []);
}

function show(value: unknown, depth: number, seen: object[]): string {
  switch (typeof value) {
    case "string":
      return quote(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return value.toString();
    case "function":
      return functionText(value);
    case "object":
      if (value === null) return "null";
      try {
        return objectText(value, depth, seen);
      } catch {
        return "[object that cannot be shown]";
      }
    default:
      return Object.is(value, -0) ? "-0" : String(value);
  }
}

function quote(text: string): string {
  const mark = !text.includes("'") ? "'" : !text.includes('"') ? '"' : "`";
  const body = clip(text).replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/\r/g, "\\r").replace(/\t/g, "\\t");
  return mark + body + mark;
}

function clip(text: string): string {
  return text.length > MAX_STRING ? `${text.slice(0, MAX_STRING)}… ${text.length - MAX_STRING} more characters` : text;
}

function functionText(value: Function): string {
  const kind = /^class\b/.test(Function.prototype.toString.call(value)) ? "class" : "Function";
  return value.name ? `[${kind === "class" ? "class" : "Function:"} ${value.name}]` : `[${kind} (anonymous)]`;
}

function className(value: object): string {
  const prototype = Object.getPrototypeOf(value) as { constructor?: { name?: string } } | null;
  if (prototype === null) return "[Object: null prototype]";
  return prototype.constructor?.name || "Object";
}

function objectText(value: object, depth: number, seen: object[]): string {
  if (seen.includes(value)) return "[Circular]";
  if (value instanceof Error)
    return depth === 0 ? describeError(value, 0, seen) : `[${describeError(value, depth, seen)}]`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (value instanceof WeakMap || value instanceof WeakSet) return `${className(value)} {}`;
  if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    return `[${className(value)}: ${show(value.valueOf(), depth, seen)}]`;
  }
  const path = [...seen, value];
  const inner = (part: unknown) => show(part, depth + 1, path);
  if (depth >= MAX_DEPTH) return Array.isArray(value) ? "[Array]" : `[${className(value)}]`;
  if (Array.isArray(value))
    return list(
      className(value) === "Array" ? "" : `${className(value)} `,
      "[",
      "]",
      arrayParts(value, inner),
      value.length,
    );
  if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
  if (ArrayBuffer.isView(value)) return viewText(value);
  if (value instanceof Map) {
    const parts = Array.from(first(value), ([key, item]) => `${inner(key)} => ${inner(item)}`);
    return list(`Map(${value.size}) `, "{", "}", parts, value.size);
  }
  if (value instanceof Set) return list(`Set(${value.size}) `, "{", "}", Array.from(first(value), inner), value.size);
  return plainText(value, inner);
}

function arrayParts(value: unknown[], inner: (part: unknown) => string): string[] {
  const parts: string[] = [];
  for (let index = 0; index < value.length && index < MAX_ENTRIES; index++) {
    parts.push(index in value ? inner(value[index]) : "<empty>");
  }
  return parts;
}

function viewText(value: ArrayBufferView): string {
  if (value instanceof DataView) return `DataView { byteLength: ${value.byteLength} }`;
  const array = value as Uint8Array;
  return list(
    `${className(array)}(${array.length}) `,
    "[",
    "]",
    Array.from(array.subarray(0, MAX_ENTRIES), String),
    array.length,
  );
}

function plainText(value: object, inner: (part: unknown) => string): string {
  const name = className(value);
  const shown = name === "Object" ? "" : `${name} `;
  if (value instanceof Headers) {
    return list(
      shown,
      "{",
      "}",
      Array.from(value as Iterable<[string, string]>, ([key, item]) => `${keyText(key)}: ${inner(item)}`),
    );
  }
  if (value instanceof URL) return `URL { href: ${quote(value.href)} }`;
  const entries = ownEntries(value);
  if (entries.length === 0) entries.push(...accessors(value));
  const parts = entries.slice(0, MAX_ENTRIES).map(([key, item]) => `${keyText(key)}: ${inner(item)}`);
  return list(shown, "{", "}", parts, entries.length);
}

/** What requests and responses show: they have nothing of their own to enumerate. */
function accessors(value: object): [string, unknown][] {
  const names = ["method", "url", "status", "statusText", "headers", "bodyUsed"];
  if (!(value instanceof globalThis.Request) && !(value instanceof globalThis.Response)) return [];
  return names
    .filter((name) => name in value)
    .map((name) => [name, (value as unknown as Record<string, unknown>)[name]]);
}

function ownEntries(value: object): [string, unknown][] {
  return Object.keys(value).map((key) => {
    const property = Object.getOwnPropertyDescriptor(value, key);
    return [key, property?.get ? "[Getter]" : (value as Record<string, unknown>)[key]];
  });
}

function keyText(key: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(key) ? key : quote(key);
}

function* first<T>(items: Iterable<T>): Iterable<T> {
  let count = 0;
  for (const item of items) {
    if (count++ === MAX_ENTRIES) return;
    yield item;
  }
}

function list(name: string, open: string, close: string, parts: string[], total = parts.length): string {
  if (total > parts.length) parts.push(`… ${total - parts.length} more`);
  if (parts.length === 0) return `${name}${open}${close}`;
  const line = `${name}${open} ${parts.join(", ")} ${close}`;
  if (line.length <= WIDTH && !line.includes("\n")) return line;
  return `${name}${open}\n  ${parts.map((part) => part.replace(/\n/g, "\n  ")).join(",\n  ")}\n${close}`;
}

/** What `console.log` writes of its arguments, `%s` and its like included. */
export function format(values: unknown[]): string {
  let rest = values;
  let text = "";
  const [pattern] = values;
  if (typeof pattern === "string" && pattern.includes("%") && values.length > 1) {
    let next = 1;
    text = pattern.replace(/%[sdifjoOc%]/g, (mark) => {
      if (mark === "%%") return "%";
      return next < values.length ? substitute(mark, values[next++]) : mark;
    });
    rest = values.slice(next);
    if (rest.length) text += " ";
  }
  return clip(text + rest.map((value) => (typeof value === "string" ? value : inspect(value))).join(" "));
}

function substitute(mark: string, value: unknown): string {
  switch (mark) {
    case "%s":
      return typeof value === "string"
        ? value
        : typeof value === "object" && value !== null
          ? inspect(value)
          : String(value);
    case "%d":
      return typeof value === "bigint" ? `${value}n` : typeof value === "symbol" ? "NaN" : String(Number(value));
    case "%i":
      return typeof value === "bigint" ? `${value}n` : String(Number.parseInt(String(value), 10));
    case "%f":
      return String(Number.parseFloat(String(value)));
    case "%j":
      return JSON.stringify(value) ?? "undefined";
    case "%c":
      return "";
    default:
      return inspect(value);
  }
}
