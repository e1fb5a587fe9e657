export default {
  async fetch(request, env) {
    const before = env.AI.lastRequestId;
    await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a" });
    const after = env.AI.lastRequestId;
    return Response.json({
      before,
      after: typeof after === "string" && after.length > 0,
      aiGatewayLogId: env.AI.aiGatewayLogId,
    });
  },
};
