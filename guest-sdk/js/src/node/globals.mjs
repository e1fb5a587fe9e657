// What Node has in its global scope, put in place of the bare names by the bundler where a worker uses them.

export { Buffer } from "node:buffer";
export { clearImmediate, setImmediate } from "node:timers";
export { default as process } from "node:process";
export const global = globalThis;
