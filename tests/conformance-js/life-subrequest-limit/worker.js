export default {
  async fetch(request, env) {
    let answered = 0;
    const refused = [];
    for (let call = 0; call < 5; call++) {
      try {
        await env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "again" });
        answered++;
      } catch (error) {
        refused.push(error.message);
      }
    }
    return Response.json({ answered, refused });
  },
};
