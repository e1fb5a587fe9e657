interface Env {
  AI: Ai;
}

interface Answer {
  result: { response: string };
  errors: { code: number }[];
}

export default {
  async fetch(_request, env): Promise<Response> {
    const gateway = env.AI.gateway("front");
    const gone = { provider: "gone", endpoint: "chat/completions", headers: {}, query: { model: "big" } };
    const local = { provider: "workers-ai", endpoint: "local", headers: {}, query: { prompt: "a" } };
    const response = await gateway.run([gone, local]);
    const answer = (await response.json()) as Answer;
    const nobody = await gateway.run({ ...gone, provider: "nobody" });
    const refused = (await (await gateway.run({ ...local, endpoint: "nothing" })).json()) as Answer;
    return Response.json({
      status: response.status,
      step: response.headers.get("cf-aig-step"),
      said: answer.result.response,
      failed: (await gateway.run(gone)).status,
      nobody: nobody.status,
      refused: String(refused.errors[0]?.code),
    });
  },
} satisfies ExportedHandler<Env>;
