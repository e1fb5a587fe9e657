// `console`, whose lines go to the log of the worker and of the request.

import { log } from "workers:js/host@0.1.0";
import { errorText, format, inspect } from "./inspect";
import { encoder } from "./natives";

const DEBUG = 0;
const INFO = 1;
const WARN = 2;
const ERROR = 3;

let indent = "";
const counts = new Map<string, number>();
const timers = new Map<string, number>();

function write(level: number, text: string): void {
  log(level, encoder.encode(indent ? indent + text.replace(/\n/g, `\n${indent}`) : text));
}

/** An exception that nobody caught. */
export function logError(prefix: string, error: unknown): void {
  write(ERROR, `${prefix} ${errorText(error)}`);
}

export function logWarning(text: string): void {
  write(WARN, text);
}

/** A group belongs to the request that opened it. */
export function endGroups(): void {
  indent = "";
}

const at =
  (level: number) =>
  (...values: unknown[]): void =>
    write(level, format(values));

function stack(): string {
  const lines = String(new Error().stack ?? "")
    .split("\n")
    .filter((line) => line.includes("worker.js:"));
  return lines
    .map(
      (line) =>
        `\n    at ${line.replace(/^(.*)@(.*)$/, (_, name: string, place: string) => (name ? `${name} (${place})` : place))}`,
    )
    .join("");
}

const time = (label: unknown) => String(label ?? "default");

function elapsed(label: unknown, values: unknown[]): void {
  const start = timers.get(time(label));
  if (start === undefined) return write(WARN, `Timer '${time(label)}' does not exist`);
  const rest = values.length ? ` ${format(values)}` : "";
  write(INFO, `${time(label)}: ${(performance.now() - start).toFixed(3)}ms${rest}`);
}

function group(...values: unknown[]): void {
  if (values.length) write(INFO, format(values));
  if (indent.length < 40) indent += "  ";
}

export const workerConsole = {
  debug: at(DEBUG),
  log: at(INFO),
  info: at(INFO),
  warn: at(WARN),
  error: at(ERROR),
  dirxml: at(INFO),
  table: at(INFO),
  trace: (...values: unknown[]) => write(DEBUG, `Trace${values.length ? `: ${format(values)}` : ""}${stack()}`),
  dir: (value: unknown) => write(INFO, inspect(value)),
  assert: (condition: unknown, ...values: unknown[]) => {
    if (!condition) write(ERROR, values.length ? `Assertion failed: ${format(values)}` : "Assertion failed");
  },
  group,
  groupCollapsed: group,
  groupEnd: () => {
    indent = indent.slice(2);
  },
  count: (label?: unknown) => {
    const count = (counts.get(time(label)) ?? 0) + 1;
    counts.set(time(label), count);
    write(INFO, `${time(label)}: ${count}`);
  },
  countReset: (label?: unknown) => void counts.delete(time(label)),
  time: (label?: unknown) => void timers.set(time(label), performance.now()),
  timeLog: (label?: unknown, ...values: unknown[]) => elapsed(label, values),
  timeEnd: (label?: unknown) => {
    elapsed(label, []);
    timers.delete(time(label));
  },
  timeStamp: () => {},
  profile: () => {},
  profileEnd: () => {},
  clear: () => {},
};
