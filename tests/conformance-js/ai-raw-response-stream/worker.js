export default {
  async fetch(request, env) {
    return env.AI.run("@cf/meta/llama-3.1-8b-instruct", { prompt: "a b", stream: true }, { returnRawResponse: true });
  },
};
