// `node:assert`. unenv's compares by JSON and throws what has no name.

import { deepEqual as holdTheSame } from "./deep-equal.mjs";

const { inspect } = globalThis[Symbol.for("host.workers")];

export class AssertionError extends Error {
  constructor({ message, actual, expected, operator = "fail" } = {}) {
    super(message ?? `${inspect(actual)} ${operator} ${inspect(expected)}`);
    this.name = "AssertionError";
    this.code = "ERR_ASSERTION";
    this.generatedMessage = message === undefined;
    Object.assign(this, { actual, expected, operator });
  }
}

function check(good, message, actual, expected, operator, text) {
  if (good) return;
  if (message instanceof Error) throw message;
  const error = new AssertionError({ message: message ?? text, actual, expected, operator });
  error.generatedMessage = message === undefined;
  throw error;
}

export function ok(value, message) {
  const text = "The expression evaluated to a falsy value";
  check(value, message, value, true, "==", text);
}

export function equal(actual, expected, message) {
  check(actual == expected || (actual !== actual && expected !== expected), message, actual, expected, "==");
}

export function notEqual(actual, expected, message) {
  check(actual != expected, message, actual, expected, "!=");
}

export function strictEqual(actual, expected, message) {
  const text = `Expected values to be strictly equal:\n\n${inspect(actual)} !== ${inspect(expected)}\n`;
  check(Object.is(actual, expected), message, actual, expected, "strictEqual", text);
}

export function notStrictEqual(actual, expected, message) {
  const text = `Expected "actual" to be strictly unequal to: ${inspect(expected)}`;
  check(!Object.is(actual, expected), message, actual, expected, "notStrictEqual", text);
}

export function deepEqual(actual, expected, message) {
  const text = `Expected values to be loosely deep-equal:\n\n${inspect(actual)}\n\nshould loosely deep-equal\n\n${inspect(expected)}`;
  check(holdTheSame(actual, expected, false), message, actual, expected, "deepEqual", text);
}

export function notDeepEqual(actual, expected, message) {
  check(!holdTheSame(actual, expected, false), message, actual, expected, "notDeepEqual");
}

export function deepStrictEqual(actual, expected, message) {
  const text = `Expected values to be strictly deep-equal:\n\n${inspect(actual)}\n\nshould equal\n\n${inspect(expected)}`;
  check(holdTheSame(actual, expected, true), message, actual, expected, "deepStrictEqual", text);
}

export function notDeepStrictEqual(actual, expected, message) {
  check(!holdTheSame(actual, expected, true), message, actual, expected, "notDeepStrictEqual");
}

export function match(text, pattern, message) {
  const good = typeof text === "string" && pattern.test(text);
  check(
    good,
    message,
    text,
    pattern,
    "match",
    `The input did not match the regular expression ${pattern}. Input:\n\n${inspect(text)}\n`,
  );
}

export function doesNotMatch(text, pattern, message) {
  const bad = typeof text === "string" && pattern.test(text);
  check(
    !bad,
    message,
    text,
    pattern,
    "doesNotMatch",
    `The input was expected to not match the regular expression ${pattern}. Input:\n\n${inspect(text)}\n`,
  );
}

export function fail(message) {
  check(false, message, undefined, undefined, "fail", "Failed");
}

export function ifError(value) {
  if (value === null || value === undefined) return;
  throw value instanceof Error ? value : new AssertionError({ actual: value, expected: null, operator: "ifError" });
}

/** Whether an exception is one that was expected: a class, a pattern, a check or an object with its properties. */
function expectedOne(error, expected) {
  if (expected === undefined || typeof expected === "string") return true;
  if (expected instanceof RegExp) return expected.test(String(error));
  if (typeof expected === "function") {
    if (expected.prototype !== undefined && error instanceof expected) return true;
    if (Error.isPrototypeOf(expected) || expected === Error) return false;
    return expected.call({}, error) === true;
  }
  return Object.entries(expected).every(([key, value]) =>
    value instanceof RegExp && typeof error?.[key] === "string"
      ? value.test(error[key])
      : holdTheSame(error?.[key], value, true),
  );
}

function thrown(error, expected, message, operator) {
  if (expectedOne(error, expected)) return;
  check(false, message, error, expected, operator, `The exception is not the expected one:\n\n${inspect(error)}`);
}

function missing(what, expected, message, operator) {
  check(
    false,
    typeof expected === "string" ? expected : message,
    undefined,
    expected,
    operator,
    `Missing expected ${what}.`,
  );
}

export function throws(callback, expected, message) {
  try {
    callback();
  } catch (error) {
    return thrown(error, expected, message, "throws");
  }
  missing("exception", expected, message, "throws");
}

export function doesNotThrow(callback, ...rest) {
  try {
    callback();
  } catch (error) {
    check(
      false,
      rest.at(-1),
      error,
      undefined,
      "doesNotThrow",
      `Got unwanted exception.\nActual message: "${error?.message}"`,
    );
  }
}

export async function rejects(promise, expected, message) {
  try {
    await (typeof promise === "function" ? promise() : promise);
  } catch (error) {
    return thrown(error, expected, message, "rejects");
  }
  missing("rejection", expected, message, "rejects");
}

export async function doesNotReject(promise, ...rest) {
  try {
    await (typeof promise === "function" ? promise() : promise);
  } catch (error) {
    check(
      false,
      rest.at(-1),
      error,
      undefined,
      "doesNotReject",
      `Got unwanted rejection.\nActual message: "${error?.message}"`,
    );
  }
}

const shared = {
  AssertionError,
  ok,
  strictEqual,
  notStrictEqual,
  deepStrictEqual,
  notDeepStrictEqual,
  match,
  doesNotMatch,
  fail,
  ifError,
  throws,
  doesNotThrow,
  rejects,
  doesNotReject,
};

/** The same, where `equal` and its kin are strict. */
export const strict = Object.assign((value, message) => ok(value, message), shared, {
  equal: strictEqual,
  notEqual: notStrictEqual,
  deepEqual: deepStrictEqual,
  notDeepEqual: notDeepStrictEqual,
});
strict.strict = strict;

const assert = Object.assign((value, message) => ok(value, message), shared, {
  equal,
  notEqual,
  deepEqual,
  notDeepEqual,
  strict,
});

export { assert };
export default assert;
