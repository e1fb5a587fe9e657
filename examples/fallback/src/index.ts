// Answers questions with a provider elsewhere, and with a model of this machine when the provider fails.

const MODEL = "@cf/meta/llama-3.1-8b-instruct-fp8";

const LONGEST = 1000;

const USAGE = `Ask something:
  curl 'http://fallback.localhost:8787/?q=Why+is+the+sky+blue'
`;

/** What providers of OpenAI's interface answer, and what the host's own models do. */
interface Answer {
  choices?: { message: { content: string } }[];
  result?: { response: string };
}

async function answer(question: string, gateway: AiGateway): Promise<Response> {
  const messages = [
    { role: "system", content: "Answer in one short sentence." },
    { role: "user", content: question },
  ];
  const headers = {};
  const response = await gateway.run([
    { provider: "big", endpoint: "chat/completions", headers, query: { model: "big-model", messages } },
    { provider: "workers-ai", endpoint: MODEL, headers, query: { messages, max_tokens: 64 } },
  ]);
  if (!response.ok) return new Response(await response.text(), { status: response.status });
  const { choices, result } = (await response.json()) as Answer;
  return Response.json({
    answer: choices?.[0]?.message.content ?? result?.response,
    by: response.headers.get("cf-aig-step") === "0" ? "big" : "local",
    cached: response.headers.get("cf-aig-cache-status") === "HIT",
    log: response.headers.get("cf-aig-log-id"),
  });
}

export default {
  async fetch(request, env): Promise<Response> {
    const { searchParams } = new URL(request.url);
    const gateway = env.AI.gateway("front");
    const log = searchParams.get("log");
    if (request.method === "POST" && log) {
      await gateway.patchLog(log, { feedback: 1 });
      return new Response("Thank you.\n");
    }
    const question = (searchParams.get("q") ?? "").trim();
    if (question === "" || question.length > LONGEST) {
      return new Response(`The question must have 1 to ${LONGEST} characters.\n${USAGE}`, { status: 400 });
    }
    return answer(question, gateway);
  },
} satisfies ExportedHandler<{ AI: Ai }>;
