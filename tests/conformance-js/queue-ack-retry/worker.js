export default {
  async fetch(request, env) {
    const bodies = await request.json();
    await env.Q.sendBatch(bodies.map((body) => ({ body })));
    return new Response("sent");
  },

  async queue(batch) {
    for (const message of batch.messages) {
      const { what, then } = message.body;
      console.log(`${what}: attempt ${message.attempts}`);
      if (message.attempts > 1) continue;
      if (then === "retry") message.retry();
      if (then === "retry-late") message.retry({ delaySeconds: 1 });
      if (then === "ack-retry") message.ack(), message.retry();
      if (then === "retry-ack") message.retry(), message.ack();
      if (then === "ack-throw") message.ack();
    }
    const throws = batch.messages.some(({ body, attempts }) => attempts === 1 && body.then?.endsWith("throw"));
    if (throws) throw new Error("the handler threw");
  },
};
