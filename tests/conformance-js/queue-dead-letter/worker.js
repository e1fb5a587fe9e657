export default {
  async fetch(request, env) {
    await env.Q.send(await request.text(), { contentType: "text" });
    return new Response("sent");
  },

  async queue(batch) {
    for (const { body, attempts } of batch.messages) {
      console.log(`${batch.queue}: ${body}, attempt ${attempts}`);
      if (batch.queue === "dead" || body === "good") continue;
      if (body === "spins") for (;;);
      throw new Error("poison");
    }
  },
};
