// `node:util`, which shows values as `console` does, where unenv would write JSON.

import base from "unenv/node/util";
import { deepEqual } from "./deep-equal.mjs";

const shared = globalThis[Symbol.for("host.workers")];

export * from "unenv/node/util";

export function inspect(value) {
  return shared.inspect(value);
}
inspect.custom = Symbol.for("nodejs.util.inspect.custom");
inspect.defaultOptions = {};

export function format(...values) {
  return shared.format(values);
}

export function formatWithOptions(options, ...values) {
  return shared.format(values);
}

export function isDeepStrictEqual(left, right) {
  return deepEqual(left, right, true);
}

export function callbackify(original) {
  return function (...values) {
    const done = values.pop();
    Promise.resolve(original.apply(this, values)).then(
      (value) => queueMicrotask(() => done(null, value)),
      (error) => queueMicrotask(() => done(error ?? new Error("The promise was rejected without a reason."))),
    );
  };
}

export function stripVTControlCharacters(text) {
  return String(text).replace(/\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007]*\u0007/g, "");
}

export default {
  ...base,
  inspect,
  format,
  formatWithOptions,
  isDeepStrictEqual,
  callbackify,
  stripVTControlCharacters,
};
