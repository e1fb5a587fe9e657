export default {
  async fetch(request, env) {
    const all = await env.AI.models();
    const embeddings = await env.AI.models({ task: "Text Embeddings" });
    const find = (list, name) => list.find((model) => model.name === name);
    return Response.json({
      isArray: Array.isArray(all),
      named: all.every((model) => typeof model.name === "string" && typeof model.task.name === "string"),
      llama: find(all, "@cf/meta/llama-3.1-8b-instruct")?.task.name,
      bge: find(all, "@cf/baai/bge-small-en-v1.5")?.task.name,
      onlyEmbeddings: embeddings.length > 0 && embeddings.every((model) => model.task.name === "Text Embeddings"),
    });
  },
};
