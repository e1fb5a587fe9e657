export default {
  async fetch(request, env) {
    const options = { returnRawResponse: true };
    const unknown = await env.AI.run("@cf/nobody/nothing", { prompt: "a" }, options);
    const full = await env.AI.run("full", { prompt: "a" }, options);
    return Response.json({
      unknown: { ok: unknown.ok, status: unknown.status, body: await unknown.json() },
      full: { ok: full.ok, status: full.status },
    });
  },
};
