// Checked by the compiler alone (`npm run check`): the types of the host's own tasks reach `env.AI.run`.

/// <reference path="../types/tasks.d.ts" />

declare global {
  interface AiModels {
    "my/ner": BaseAiTokenClassification;
    "my/clip": BaseAiZeroShotImageClassification;
    "my/space": BaseAiImageEmbeddings;
  }
}

export async function check(ai: Ai, image: Uint8Array): Promise<[string, number, number[] | undefined]> {
  const entities = await ai.run("my/ner", { text: "Ada lives in London" });
  const labels = await ai.run("my/clip", { image, labels: ["a cat", "a dog"] });
  const vectors = await ai.run("my/space", { text: ["a boat"], image });
  // @ts-expect-error A picture is needed.
  await ai.run("my/clip", { labels: ["a cat"] });
  // @ts-expect-error There is no such property.
  entities[0]?.label;
  return [entities[0]?.entity_group ?? "", labels[0]?.score ?? 0, vectors.data[0]];
}
