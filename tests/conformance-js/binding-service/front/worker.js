export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/forward") return env.BACK.fetch(request);
    const response = await env.BACK.fetch("http://back/greet?name=front", {
      method: "POST",
      headers: { "x-from": "front" },
      body: "a body",
    });
    return Response.json({
      status: response.status,
      type: response.headers.get("x-type"),
      body: await response.json(),
    });
  },
};
