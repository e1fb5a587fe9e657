export default {
  async fetch() {
    const response = new Response("body", {
      status: 418,
      headers: { "X-Case": "kept", "content-type": "text/x-special", "cache-control": "no-store" },
    });
    response.headers.append("set-cookie", "a=1; Path=/; HttpOnly");
    response.headers.append("set-cookie", "b=2; Secure");
    response.headers.append("vary", "accept");
    response.headers.append("vary", "origin");
    const copy = new Response(response.body, response);
    copy.headers.set("x-cookies", String(copy.headers.getSetCookie().length));
    copy.headers.delete("x-case");
    return copy;
  },
};
