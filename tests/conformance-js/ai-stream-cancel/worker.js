export default {
  async fetch(request, env) {
    const stream = await env.AI.run("endless", { prompt: "x", stream: true });
    const reader = stream.getReader();
    const { value } = await reader.read();
    await reader.cancel();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    console.log("going on");
    return Response.json({ first: new TextDecoder().decode(value).startsWith("data: ") });
  },
};
