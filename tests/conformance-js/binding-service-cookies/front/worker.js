export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const response = await env.BACK.fetch(request);
    if (pathname === "/as-it-is") return response;
    const cookies = response.headers.getSetCookie();
    if (pathname === "/copied") {
      const copy = new Response(response.body, response);
      copy.headers.set("x-seen", String(cookies.length));
      return copy;
    }
    const headers = new Headers({
      "x-seen": String([...response.headers].filter(([name]) => name === "set-cookie").length),
    });
    for (const cookie of cookies) headers.append("set-cookie", cookie);
    return new Response(await response.text(), { headers });
  },
};
