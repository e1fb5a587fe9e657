interface Env {
  AI: Ai;
}

type Options = Omit<GatewayOptions, "id">;

export default {
  async fetch(_request, env): Promise<Response> {
    const gateway = env.AI.gateway("front");
    const ask = (prompt: string, headers: object, options: Options = {}) => {
      const request = { provider: "workers-ai", endpoint: "local", headers, query: { prompt } };
      return gateway.run(request as AIGatewayUniversalRequest, { gateway: { id: "front", ...options } });
    };
    const twice = async (prompts: [string, string], headers: object, options?: Options) => {
      const statuses: (string | null)[] = [];
      for (const prompt of prompts) {
        statuses.push((await ask(prompt, headers, options)).headers.get("cf-aig-cache-status"));
      }
      return statuses;
    };
    const kept = await twice(["a", "a"], {}, { cacheTtl: 60 });
    const keyed = await twice(["b", "c"], { "cf-aig-cache-key": "k", "cf-aig-cache-ttl": "60" });
    const skipped = await twice(["a", "a"], {}, { cacheTtl: 60, skipCache: true });
    const bare = await twice(["d", "d"], {});
    const logged = await ask("e", {}, { eventId: "e-1", metadata: { user: 7, paid: true } });
    const log = await gateway.getLog(logged.headers.get("cf-aig-log-id") ?? "");
    const unlogged = await ask("f", { "cf-aig-collect-log": "false" });
    const gone = { provider: "gone", endpoint: "chat/completions", headers: {}, query: { model: "big" } };
    const retries = { maxAttempts: 2, retryDelayMs: 1, backoff: "constant" } as const;
    const tried = await gateway.run(gone, { gateway: { id: "front", requestTimeoutMs: 5000, retries } });
    return Response.json({
      kept,
      keyed,
      skipped,
      bare,
      event: (log as { event_id?: string }).event_id,
      metadata: log.metadata,
      unlogged: unlogged.headers.get("cf-aig-log-id"),
      tried: tried.status,
    });
  },
} satisfies ExportedHandler<Env>;
