let vectors;

export default {
  async fetch(request, env) {
    let made = false;
    vectors ??= env.AI.run("@cf/baai/bge-small-en-v1.5", { text: ["a", "b"] }).then((output) => {
      made = true;
      return output.data;
    });
    return Response.json({ vectors: (await vectors).length, made });
  },
};
