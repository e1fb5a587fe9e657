export default {
  async fetch(request) {
    const url = new URL(request.url);
    const body = {
      method: request.method,
      path: url.pathname + url.search,
      from: request.headers.get("x-from"),
      body: await request.text(),
    };
    return Response.json(body, { status: 201, headers: { "x-type": "back" } });
  },
};
