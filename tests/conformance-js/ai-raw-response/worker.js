export default {
  async fetch(request, env) {
    const response = await env.AI.run(
      "@cf/meta/llama-3.1-8b-instruct",
      { prompt: "hello" },
      { returnRawResponse: true },
    );
    return Response.json({
      isResponse: response instanceof Response,
      status: response.status,
      ok: response.ok,
      type: response.headers.get("content-type"),
      body: await response.json(),
    });
  },
};
