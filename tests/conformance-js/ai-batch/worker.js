const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

export default {
  async fetch(request, env) {
    const requests = [{ prompt: "one", external_reference: "a" }, { prompt: "two" }];
    const { request_id, ...queued } = await env.AI.run(MODEL, { requests }, { queueRequest: true });
    let answer;
    do {
      await new Promise((resolve) => setTimeout(resolve, 20));
      answer = await env.AI.run(MODEL, { request_id });
    } while (answer.status === "queued" || answer.status === "running");
    const unknown = await env.AI.run(MODEL, { request_id: "nothing" }).catch((error) => error.name);
    return Response.json({
      queued,
      responses: answer.responses.map(({ result, ...rest }) => ({ ...rest, said: result.response })),
      tokens: answer.usage.completion_tokens,
      unknown,
    });
  },
};
