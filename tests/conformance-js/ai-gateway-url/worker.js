export default {
  async fetch(request, env) {
    const url = await env.AI.gateway("front").getUrl("workers-ai");
    const ask = (address, prompt) =>
      fetch(address, { method: "POST", headers: { "cf-aig-cache-ttl": "60" }, body: JSON.stringify({ prompt }) });
    const first = await ask(`${url}/local`, "a");
    const second = await ask(`${url}/local`, "a");
    return Response.json({
      said: (await first.json()).result.response,
      cached: [first, second].map((response) => response.headers.get("cf-aig-cache-status")),
      grant: (await ask(`${url}/other`, "a")).status,
      binding: (await ask(url.replace("/AI/", "/OTHER/") + "/local", "a")).status,
    });
  },
};
