// The module `cloudflare:workers`. Its classes live in the runtime, so that a worker's class is one that it knows.

const shared = globalThis[Symbol.for("host.workers")];

export const { env, waitUntil, WorkerEntrypoint, DurableObject, WorkflowEntrypoint, RpcTarget } = shared;
