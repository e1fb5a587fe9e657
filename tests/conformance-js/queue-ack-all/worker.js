export default {
  async fetch(request, env) {
    const bodies = await request.json();
    await env.Q.sendBatch(bodies.map((body) => ({ body })));
    return new Response("sent");
  },

  async queue(batch) {
    const [first, second] = batch.messages;
    for (const { body, attempts } of batch.messages) console.log(`${body}: attempt ${attempts}`);
    if (first.attempts > 1) return;
    switch (first.body) {
      case "ackAll, then throw":
        batch.ackAll();
        batch.retryAll();
        throw new Error("after ackAll");
      case "retryAll":
        batch.retryAll({ delaySeconds: 0 });
        batch.ackAll();
        return;
      case "acked before retryAll":
        first.ack();
        batch.retryAll();
        second.ack();
        return;
    }
  },
};
