interface Env {
  Q: Queue;
}

export default {
  async fetch(_request, env): Promise<Response> {
    const sent = await env.Q.send({ n: 1, when: new Date(0), gone: undefined });
    await env.Q.send("plain");
    await env.Q.send("a text", { contentType: "text" });
    await env.Q.send(new Uint8Array([0, 1, 254, 255]), { contentType: "bytes" });
    await env.Q.send(null, { contentType: "json" });
    const { backlogCount, backlogBytes, oldestMessageTimestamp } = sent.metadata.metrics;
    return Response.json({ backlogCount, backlogBytes, date: oldestMessageTimestamp instanceof Date });
  },

  async queue(batch, env): Promise<void> {
    for (const { id, timestamp, attempts, body } of batch.messages) {
      const shown = body instanceof Uint8Array ? `bytes ${[...body]}` : JSON.stringify(body);
      const sound = /^[0-9a-f]{32}$/.test(id) && Math.abs(Date.now() - timestamp.getTime()) < 3_600_000;
      console.log(`${batch.queue} got ${shown}, attempt ${attempts}, ${sound}, ${batch.metadata.metrics.backlogCount > 0}`);
    }
  },
} satisfies ExportedHandler<Env>;
