export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/api/time") return Response.json({ from: "worker" });
    if (url.pathname === "/through") {
      const page = await env.ASSETS.fetch(new URL("/style.css", url));
      return new Response(`/* through the worker */\n${await page.text()}`, page);
    }
    return env.ASSETS.fetch(request);
  },
};
