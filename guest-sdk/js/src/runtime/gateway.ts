// `env.AI.gateway(id)`: calls of providers and of the host's own models through the host's gateway, which answers at an
// address that no network has.

import { workerFetch } from "./fetch";
import type { Response } from "./response";
import { refuseInGlobalScope } from "./state";

const ADDRESS = "http://gateway.internal";

/** What the host's gateway could not do. */
export class AiGatewayInternalError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "AiGatewayInternalError";
  }
}

/** There is no such entry in the log, or it is another worker's. */
export class AiGatewayLogNotFound extends Error {
  constructor(message: string) {
    super(message);
    this.name = "AiGatewayLogNotFound";
  }
}

interface GatewayOptions {
  [option: string]: unknown;
  retries?: { [option: string]: unknown };
}

interface CallOptions {
  gateway?: GatewayOptions;
  extraHeaders?: Record<string, string>;
  signal?: AbortSignal;
}

/** The headers that options travel in. */
const HEADERS: Record<string, string> = {
  cacheKey: "cf-aig-cache-key",
  cacheTtl: "cf-aig-cache-ttl",
  skipCache: "cf-aig-skip-cache",
  metadata: "cf-aig-metadata",
  collectLog: "cf-aig-collect-log",
  eventId: "cf-aig-event-id",
  requestTimeoutMs: "cf-aig-request-timeout",
  maxAttempts: "cf-aig-max-attempts",
  retryDelayMs: "cf-aig-retry-delay",
  backoff: "cf-aig-backoff",
};

const NAME = Symbol("name");

export class AiGateway {
  declare private [NAME]: string;

  constructor(binding: string, id: string) {
    Object.defineProperty(this, NAME, { value: `${encodeURIComponent(binding)}/${encodeURIComponent(id)}` });
  }

  /** Asks one provider, or several until one answers. The answer is the provider's, whatever its status. */
  async run(data: unknown, options: CallOptions = {}): Promise<Response> {
    const headers: Record<string, string> = { "content-type": "application/json", ...options.extraHeaders };
    const { retries, ...rest } = options.gateway ?? {};
    for (const [name, value] of Object.entries({ ...rest, ...retries })) {
      const header = HEADERS[name];
      if (header && value !== undefined && value !== null) headers[header] = text(value);
    }
    const init = { method: "POST", headers, body: json(data), signal: options.signal ?? null };
    return workerFetch(`${ADDRESS}/${this[NAME]}`, init);
  }

  async getLog(logId: string): Promise<unknown> {
    const response = await this.log(logId, { method: "GET" });
    const log = (await response.json()) as { created_at: number };
    return { ...log, created_at: new Date(log.created_at) };
  }

  async patchLog(logId: string, data: unknown): Promise<void> {
    const headers = { "content-type": "application/json" };
    await this.log(logId, { method: "PATCH", headers, body: json(data) });
  }

  /** The address of the gateway, or of a provider behind it, for this worker's `fetch`. */
  async getUrl(provider?: string): Promise<string> {
    const path = provider === undefined ? "" : `/${encodeURIComponent(provider)}`;
    return `${ADDRESS}/${this[NAME]}${path}`;
  }

  private async log(logId: string, init: { method: string; headers?: object; body?: string }): Promise<Response> {
    refuseInGlobalScope();
    if (typeof logId !== "string" || logId === "") throw new TypeError("The id of a log is a string.");
    const response = await workerFetch(`${ADDRESS}/${this[NAME]}/logs/${encodeURIComponent(logId)}`, init as never);
    if (response.ok) return response;
    const { errors } = (await response.json()) as { errors: { message: string }[] };
    const message = errors[0]?.message ?? "the gateway gave no answer";
    throw response.status === 404 ? new AiGatewayLogNotFound(message) : new AiGatewayInternalError(message);
  }
}

function text(value: unknown): string {
  return typeof value === "string" ? value : json(value);
}

/** As JSON, which has no numbers beyond a double's. */
function json(value: unknown): string {
  return JSON.stringify(value, (_, value) => (typeof value === "bigint" ? Number(value) : value)) ?? "null";
}
