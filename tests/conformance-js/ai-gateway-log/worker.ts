interface Env {
  AI: Ai;
}

const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

async function nameOf(failing: Promise<unknown>): Promise<string> {
  try {
    await failing;
    return "nothing";
  } catch (error) {
    return (error as Error).name;
  }
}

export default {
  async fetch(_request, env): Promise<Response> {
    await env.AI.run(MODEL, { prompt: "a" }, { gateway: { id: "front", metadata: { user: 7 } } });
    const id = env.AI.aiGatewayLogId ?? "";
    const gateway = env.AI.gateway("front");
    const log = await gateway.getLog(id);
    await gateway.patchLog(id, { feedback: 1, score: 90, metadata: { k: "v" } });
    const patched = await gateway.getLog(id);
    await env.AI.run(MODEL, { prompt: "a" }, { gateway: { id: "front", collectLog: false } });
    return Response.json({
      model: log.model,
      provider: log.provider,
      status: log.status_code,
      success: log.success,
      cached: log.cached,
      tokens: (log.tokens_out ?? 0) > 0,
      date: log.created_at instanceof Date,
      metadata: log.metadata,
      patched: patched.metadata,
      missing: await nameOf(gateway.getLog("nothing")),
      wrong: await nameOf(gateway.patchLog(id, { score: 500 })),
      unlogged: env.AI.aiGatewayLogId,
    });
  },
} satisfies ExportedHandler<Env>;
