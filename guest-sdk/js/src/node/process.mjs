// `node:process`, whose `env` holds the worker's variables and secrets.

import process from "unenv/node/process";

process.env = { ...globalThis[Symbol.for("host.workers")].vars };

export * from "unenv/node/process";
export const { env } = process;
export default process;
