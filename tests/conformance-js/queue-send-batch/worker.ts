interface Env {
  Q: Queue<string>;
}

function* messages(): Generator<MessageSendRequest<string>> {
  for (const body of ["a", "b", "c"]) yield { body };
  yield { body: "d", contentType: "text" };
  yield { body: "late", delaySeconds: 8 };
}

export default {
  async fetch(_request, env): Promise<Response> {
    const { metadata } = await env.Q.sendBatch(messages(), { delaySeconds: 0 });
    const { backlogCount } = await env.Q.metrics();
    return Response.json({ sent: metadata.metrics.backlogCount, kept: backlogCount > 0 });
  },

  async queue(batch): Promise<void> {
    console.log(`a batch of ${batch.messages.map(({ body }) => body).join("+")}`);
  },
} satisfies ExportedHandler<Env, string>;
