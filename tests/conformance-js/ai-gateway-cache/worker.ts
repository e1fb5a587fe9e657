interface Env {
  AI: Ai;
}

/** What a stream says, and whether it says that it is over. */
function said(events: string): string {
  const data = events.split("\n\n").filter((event) => event.startsWith("data: {"));
  const text = data.map((event) => (JSON.parse(event.slice(6)) as { response: string }).response).join("");
  return events.endsWith("data: [DONE]\n\n") ? `${text} [DONE]` : text;
}

export default {
  async fetch(request, env): Promise<Response> {
    const seen: string[] = [];
    for (const inputs of (await request.json()) as { prompt: string; stream?: boolean }[]) {
      const options = { gateway: { id: "front", cacheTtl: 60 }, returnRawResponse: true as const };
      const response = await env.AI.run("@cf/meta/llama-3.1-8b-instruct-fp8", inputs, options);
      const body = inputs.stream ? said(await response.text()) : ((await response.json()) as { response: string }).response;
      seen.push(`${response.headers.get("cf-aig-cache-status")} ${body}`);
    }
    return Response.json(seen);
  },
} satisfies ExportedHandler<Env>;
