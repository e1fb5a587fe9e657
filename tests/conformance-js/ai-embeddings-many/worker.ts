export default {
  async fetch(request, env): Promise<Response> {
    const text = ["one", "two", "one"];
    const output = (await env.AI.run("@cf/baai/bge-small-en-v1.5", { text, pooling: "cls" })) as {
      shape: number[];
      data: number[][];
      pooling: string;
    };
    const [first, second, third] = output.data;
    const length = Math.hypot(...first);
    return Response.json({
      shape: output.shape,
      pooling: output.pooling,
      sameTextSameVector: first.every((value, index) => value === third[index]),
      otherTextOtherVector: first.some((value, index) => value !== second[index]),
      unit: Math.abs(length - 1) < 1e-5,
    });
  },
} satisfies ExportedHandler<{ AI: Ai }>;
