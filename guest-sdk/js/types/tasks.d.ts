// The types of the tasks that are this host's own, beside those of `@cloudflare/workers-types`. A name that your binding
// file gives to a model gets its types by declaring it:
//
//   /// <reference path="PATH/guest-sdk/js/types/tasks.d.ts" />
//   interface AiModels {
//     "my/ner": BaseAiTokenClassification;
//     "my/clip": BaseAiZeroShotImageClassification;
//   }

/** Bytes of a picture: as they are, as numbers, in base64, or with the type of their content. */
type AiImage = ArrayBuffer | Uint8Array | number[] | string | { body: ReadableStream | Blob | Uint8Array; contentType: string };

/** A text whose words are to be told apart. */
interface AiTokenClassificationInput {
  text: string;
}

/** A part of a text, and what it is. `start` and `end` count characters (Unicode code points). */
interface AiEntity {
  entity_group: string;
  score: number;
  word: string;
  start: number;
  end: number;
}

declare abstract class BaseAiTokenClassification {
  inputs: AiTokenClassificationInput;
  postProcessedOutputs: AiEntity[];
}

/** A picture and the texts of which one may say what it shows. `{}` in the template stands for a label. */
interface AiZeroShotImageClassificationInput {
  image: AiImage;
  labels: string[];
  hypothesis_template?: string;
}

declare abstract class BaseAiZeroShotImageClassification {
  inputs: AiZeroShotImageClassificationInput;
  /** One for each label, best first. */
  postProcessedOutputs: { label: string; score: number }[];
}

/** A picture, texts, or both. */
type AiImageEmbeddingsInput = { image: AiImage; text?: string | string[] } | { text: string | string[] };

declare abstract class BaseAiImageEmbeddings {
  inputs: AiImageEmbeddingsInput;
  /** The picture's vector, if there is one, then one for each text. Each has the length 1. */
  postProcessedOutputs: { shape: [number, number]; data: number[][] };
}
