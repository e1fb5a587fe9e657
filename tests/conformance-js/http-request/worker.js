export default {
  async fetch(request) {
    const url = new URL(request.url);
    return Response.json({
      isRequest: request instanceof Request,
      method: request.method,
      path: url.pathname,
      query: [...url.searchParams],
      hostname: url.hostname,
      header: request.headers.get("X-Test"),
      missing: request.headers.get("x-missing"),
      agent: request.headers.get("user-agent"),
      names: [...request.headers.keys()].filter((name) => name.startsWith("x-")),
      bodyIsNull: request.body === null,
      bodyUsed: request.bodyUsed,
      signal: request.signal instanceof AbortSignal,
    });
  },
};
