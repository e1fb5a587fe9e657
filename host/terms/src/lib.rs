//! The words for models that binding files and the engine share: what a model does, how a text becomes one vector, how
//! weights are computed with.
//!
//! A binding file is read without the engine, which takes minutes to compile, and the engine knows no binding files; both
//! need these names to be the same ones. So they stand here, below both, with their spelling and nothing else: what is
//! done for a task is the engine's.

use serde::{Deserialize, Serialize};

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Text in, text out.
    TextGeneration,
    /// Text in, one vector each out.
    TextEmbeddings,
    /// How well each of several texts answers a query.
    Rerank,
    /// What a text is, each label with its probability.
    TextClassification,
    /// What the words of a text are: names of people, of places, …
    TokenClassification,
    /// A text in another language.
    Translation,
    /// A text in fewer words.
    Summarization,
    /// Sound in, the words in it out.
    AutomaticSpeechRecognition,
    /// Text in, sound out.
    TextToSpeech,
    /// A picture of what a text says.
    TextToImage,
    /// A text about a picture.
    ImageToText,
    /// What a picture shows, each label with its probability.
    ImageClassification,
    /// What a picture shows, and where.
    ObjectDetection,
    /// Pictures and texts in, vectors of one space out. This host's own.
    ImageEmbeddings,
    /// Which of several texts a picture shows. This host's own.
    ZeroShotImageClassification,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 15] = [
        Task::TextGeneration,
        Task::TextEmbeddings,
        Task::Rerank,
        Task::TextClassification,
        Task::TokenClassification,
        Task::Translation,
        Task::Summarization,
        Task::AutomaticSpeechRecognition,
        Task::TextToSpeech,
        Task::TextToImage,
        Task::ImageToText,
        Task::ImageClassification,
        Task::ObjectDetection,
        Task::ImageEmbeddings,
        Task::ZeroShotImageClassification,
    ];

    /// The name in binding files and on the command line: `text-generation`.
    pub const fn name(self) -> &'static str {
        match self {
            Task::TextGeneration => "text-generation",
            Task::TextEmbeddings => "text-embeddings",
            Task::Rerank => "rerank",
            Task::TextClassification => "text-classification",
            Task::TokenClassification => "token-classification",
            Task::Translation => "translation",
            Task::Summarization => "summarization",
            Task::AutomaticSpeechRecognition => "automatic-speech-recognition",
            Task::TextToSpeech => "text-to-speech",
            Task::TextToImage => "text-to-image",
            Task::ImageToText => "image-to-text",
            Task::ImageClassification => "image-classification",
            Task::ObjectDetection => "object-detection",
            Task::ImageEmbeddings => "image-embeddings",
            Task::ZeroShotImageClassification => "zero-shot-image-classification",
        }
    }

    /// The name in Cloudflare's model list: `Text Generation`.
    pub fn title(self) -> &'static str {
        match self {
            Task::TextGeneration => "Text Generation",
            Task::TextEmbeddings => "Text Embeddings",
            Task::TokenClassification => "Token Classification",
            Task::Translation => "Translation",
            Task::Summarization => "Summarization",
            Task::AutomaticSpeechRecognition => "Automatic Speech Recognition",
            Task::TextToSpeech => "Text-to-Speech",
            Task::TextToImage => "Text-to-Image",
            Task::ImageToText => "Image-to-Text",
            Task::ImageClassification => "Image Classification",
            Task::ObjectDetection => "Object Detection",
            Task::ImageEmbeddings => "Image Embeddings",
            Task::ZeroShotImageClassification => "Zero-Shot Image Classification",
            Task::Rerank | Task::TextClassification => "Text Classification",
        }
    }
}

impl Task {
    /// Whether a model whose files are made for this task can be given `other`: its own; comparing pictures, where it gives
    /// their vectors, and the other way round; and translation and summarization both by encoder-decoders, which the
    /// files do not always tell apart, and by language models, which are asked in a prompt.
    pub fn serves(self, other: Task) -> bool {
        let pictures = [Task::ImageEmbeddings, Task::ZeroShotImageClassification];
        let texts = [Task::Translation, Task::Summarization];
        self == other
            || pictures.contains(&self) && pictures.contains(&other)
            || texts.contains(&other) && (self == Task::TextGeneration || texts.contains(&self))
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Task::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| UnknownTask(name.to_owned()))
    }
}

/// A task this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no task `{0}`; tasks are {tasks}", tasks = Task::ALL.map(Task::name).join(", "))]
pub struct UnknownTask(pub String);

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over the text's tokens.
    Mean,
    /// The state of the first token.
    Cls,
    /// The state of the last token.
    Last,
}

impl Pooling {
    /// Every pooling.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::Last];

    /// The name in binding files: `mean`.
    pub const fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Last => "last",
        }
    }
}

/// How products with weights are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// With weights as they are in the file and activations in float32.
    #[default]
    Float,
    /// With weights in blocks of 32 eight-bit integers (Q8_0) and activations rounded to eight bits as well: some 1 % of
    /// error in a product, half the memory of float16.
    Int8,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::Float, Precision::Int8];

    /// The name in binding files: `int8`.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Float => "float",
            Precision::Int8 => "int8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `serde` writes is what `name` says.
    fn agrees<T: Serialize>(value: T, name: &str) {
        assert_eq!(serde_json::to_value(value).ok(), Some(name.into()));
    }

    #[test]
    fn every_word_has_one_spelling() {
        for task in Task::ALL {
            agrees(task, task.name());
            assert_eq!(task.name().parse(), Ok(task));
        }
        Pooling::ALL.into_iter().for_each(|pooling| agrees(pooling, pooling.name()));
        Precision::ALL.into_iter().for_each(|precision| agrees(precision, precision.name()));
        assert!("text-generations".parse::<Task>().unwrap_err().to_string().contains("text-embeddings"));
    }
}
