//! The inputs and outputs of every task of Cloudflare's but text generation.
//!
//! An image or a sound that a model reads is no field here: it goes beside the inputs as an
//! [`Attachment`](super::Attachment) of [`Ai::run_with`](super::Ai::run_with).

use serde::{Deserialize, Serialize};

/// Texts to embed: one call takes up to 100.
///
/// ```
/// let input = host_sdk::ai::TextEmbeddingsInput::new(["cold start", "warm start"]).pooling("cls");
/// assert_eq!(serde_json::to_string(&input)?, r#"{"text":["cold start","warm start"],"pooling":"cls"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TextEmbeddingsInput {
    /// The texts.
    pub text: Vec<String>,
    /// How a text's tokens become one vector: `mean` or `cls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<String>,
}

impl TextEmbeddingsInput {
    /// Texts to embed.
    ///
    /// ```
    /// let input = host_sdk::ai::TextEmbeddingsInput::new(["a", "b"]);
    /// assert_eq!(input.text.len(), 2);
    /// ```
    pub fn new<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self { text: texts.into_iter().map(Into::into).collect(), pooling: None }
    }

    /// Sets how a text's tokens become one vector.
    ///
    /// ```
    /// let input = host_sdk::ai::TextEmbeddingsInput::new(["a"]).pooling("mean");
    /// assert_eq!(input.pooling.as_deref(), Some("mean"));
    /// ```
    pub fn pooling(mut self, pooling: impl Into<String>) -> Self {
        self.pooling = Some(pooling.into());
        self
    }
}

/// One vector a text, in the order of the texts.
///
/// ```
/// let text = r#"{"shape":[1,3],"data":[[0.6,0.0,0.8]],"pooling":"mean"}"#;
/// let output: host_sdk::ai::TextEmbeddingsOutput = serde_json::from_str(text)?;
/// assert_eq!(output.data[0].len(), 3);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextEmbeddingsOutput {
    /// The number of texts and the length of a vector.
    pub shape: Vec<usize>,
    /// The vectors.
    pub data: Vec<Vec<f32>>,
    /// The pooling that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<String>,
}

/// A text to rank against a query.
///
/// ```
/// let context = host_sdk::ai::ContextText::from("Rust is a language.");
/// # assert_eq!(context.text, "Rust is a language.");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextText {
    /// The text.
    pub text: String,
}

impl<S: Into<String>> From<S> for ContextText {
    fn from(text: S) -> Self {
        Self { text: text.into() }
    }
}

/// A query and the texts to rank against it.
///
/// ```
/// let input = host_sdk::ai::RerankerInput {
///     query: "a language".into(),
///     contexts: vec!["Rust is a language.".into(), "Rust is a fungus.".into()],
///     top_k: Some(1),
/// };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RerankerInput {
    /// The query.
    pub query: String,
    /// The texts.
    pub contexts: Vec<ContextText>,
    /// How many of the best to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
}

/// The ranking, best first.
///
/// ```
/// let text = r#"{"response":[{"id":1,"score":0.9}]}"#;
/// let output: host_sdk::ai::RerankerOutput = serde_json::from_str(text)?;
/// assert_eq!(output.response[0].id, 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RerankerOutput {
    /// The texts' places and scores.
    pub response: Vec<Score>,
}

/// A text's place in the inputs and its score.
///
/// ```
/// let score: host_sdk::ai::Score = serde_json::from_str(r#"{"id":0,"score":0.5}"#)?;
/// # assert_eq!(score.id, 0);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The place in `contexts`, from 0.
    pub id: usize,
    /// The score.
    pub score: f64,
}

/// How to transcribe speech; the sound is the attachment `audio`.
///
/// ```
/// let input = host_sdk::ai::AutomaticSpeechRecognitionInput { language: Some("en".into()), ..Default::default() };
/// assert_eq!(serde_json::to_string(&input)?, r#"{"language":"en"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AutomaticSpeechRecognitionInput {
    /// `transcribe` or `translate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The language spoken, as a code such as `en`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Whether silence is left out before the model listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vad_filter: Option<bool>,
    /// A text that sets the vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_prompt: Option<String>,
    /// A text that the transcript begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A transcript.
///
/// ```
/// let output: host_sdk::ai::AutomaticSpeechRecognitionOutput = serde_json::from_str(r#"{"text":"Hello"}"#)?;
/// assert_eq!(output.text, "Hello");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AutomaticSpeechRecognitionOutput {
    /// The whole text.
    pub text: String,
    /// The number of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word_count: Option<u64>,
    /// The words with their times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// Subtitles in WebVTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtt: Option<String>,
}

/// A word and when it is said, in seconds from the start.
///
/// ```
/// let word: host_sdk::ai::Word = serde_json::from_str(r#"{"word":"Hello","start":0.1,"end":0.4}"#)?;
/// # assert_eq!(word.word, "Hello");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word.
    pub word: String,
    /// When it begins.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}

/// A picture to make. The output is an image ([`Ai::run_bytes`](super::Ai::run_bytes)) or, for some models,
/// [`TextToImageOutput`].
///
/// ```
/// let mut input = host_sdk::ai::TextToImageInput::new("a lighthouse at dusk");
/// input.num_steps = Some(4);
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextToImageInput {
    /// What it shows.
    pub prompt: String,
    /// What it must not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The height in pixels, 256 to 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The width in pixels, 256 to 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// The number of diffusion steps, at most 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_steps: Option<u32>,
    /// How far an input image is changed, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// How closely the prompt is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// Makes the picture repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl TextToImageInput {
    /// A picture of what `prompt` says.
    ///
    /// ```
    /// let input = host_sdk::ai::TextToImageInput::new("a red door");
    /// # drop(input);
    /// ```
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }
}

/// A picture, for the models that give it as JSON.
///
/// ```
/// let output: host_sdk::ai::TextToImageOutput = serde_json::from_str(r#"{"image":"iVBORw0KGgo="}"#)?;
/// # assert!(!output.image.is_empty());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextToImageOutput {
    /// The image in base64.
    pub image: String,
}

/// A text to classify; the output is a list of [`Label`]s.
///
/// ```
/// let input = host_sdk::ai::TextClassificationInput { text: "I like it".into() };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextClassificationInput {
    /// The text.
    pub text: String,
}

/// A class and its probability, of a text or of an image.
///
/// ```
/// let labels: Vec<host_sdk::ai::Label> = serde_json::from_str(r#"[{"label":"POSITIVE","score":0.99}]"#)?;
/// # assert_eq!(labels[0].label, "POSITIVE");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The class.
    pub label: String,
    /// Its probability.
    pub score: f64,
}

/// A text to translate.
///
/// ```
/// let input = host_sdk::ai::TranslationInput {
///     text: "Good morning".into(),
///     target_lang: "fr".into(),
///     source_lang: Some("en".into()),
/// };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranslationInput {
    /// The text.
    pub text: String,
    /// The language to translate to.
    pub target_lang: String,
    /// The language of the text, English if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_lang: Option<String>,
}

/// A translation.
///
/// ```
/// let output: host_sdk::ai::TranslationOutput = serde_json::from_str(r#"{"translated_text":"Bonjour"}"#)?;
/// # assert_eq!(output.translated_text, "Bonjour");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TranslationOutput {
    /// The text in the other language.
    pub translated_text: String,
}

/// A text to summarize.
///
/// ```
/// let input = host_sdk::ai::SummarizationInput { input_text: "A long text".into(), max_length: Some(64) };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SummarizationInput {
    /// The text.
    pub input_text: String,
    /// The most tokens to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
}

/// A summary.
///
/// ```
/// let output: host_sdk::ai::SummarizationOutput = serde_json::from_str(r#"{"summary":"Short"}"#)?;
/// # assert_eq!(output.summary, "Short");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SummarizationOutput {
    /// The summary.
    pub summary: String,
}

/// An object that was found in an image; the output of a detector is a list of them.
///
/// ```
/// let text = r#"{"label":"cat","score":0.9,"box":{"xmin":1,"ymin":2,"xmax":3,"ymax":4}}"#;
/// let found: host_sdk::ai::DetectedObject = serde_json::from_str(text)?;
/// assert_eq!(found.bounds.xmax, 3.0);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectedObject {
    /// What it is.
    pub label: String,
    /// How sure the model is, 0 to 1.
    pub score: f64,
    /// Where it is.
    #[serde(rename = "box")]
    pub bounds: BoundingBox,
}

/// A rectangle in pixels, from the upper left corner of the image.
///
/// ```
/// let bounds = host_sdk::ai::BoundingBox { xmin: 0.0, ymin: 0.0, xmax: 8.0, ymax: 8.0 };
/// # assert_eq!(bounds.xmax, 8.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox {
    /// The left edge.
    pub xmin: f64,
    /// The upper edge.
    pub ymin: f64,
    /// The right edge.
    pub xmax: f64,
    /// The lower edge.
    pub ymax: f64,
}

/// What to say about an image; the image is the attachment `image`.
///
/// ```
/// let input = host_sdk::ai::ImageToTextInput { prompt: Some("Describe it".into()), max_tokens: Some(64) };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageToTextInput {
    /// What the model is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The most tokens to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// What an image shows.
///
/// ```
/// let output: host_sdk::ai::ImageToTextOutput = serde_json::from_str(r#"{"description":"A cat"}"#)?;
/// # assert_eq!(output.description, "A cat");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageToTextOutput {
    /// The description.
    pub description: String,
}

/// A text to say; the output is [`TextToSpeechOutput`].
///
/// ```
/// let input = host_sdk::ai::TextToSpeechInput { prompt: "Hello".into(), lang: Some("en".into()) };
/// # drop(input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextToSpeechInput {
    /// The text.
    pub prompt: String,
    /// Its language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
}

/// A sound, for the models that give it as JSON.
///
/// ```
/// let output: host_sdk::ai::TextToSpeechOutput = serde_json::from_str(r#"{"audio":"UklGRg=="}"#)?;
/// # assert!(!output.audio.is_empty());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextToSpeechOutput {
    /// The sound in base64.
    pub audio: String,
}

/// A text to say as it is heard: the output is the bytes of a sound ([`Ai::run_bytes`](super::Ai::run_bytes)), a WAV file
/// where nothing else is asked for.
///
/// ```
/// let mut input = host_sdk::ai::SpokenTextInput::new("Hello. How are you?");
/// input.sample_rate = Some(24_000);
/// assert_eq!(serde_json::to_string(&input)?, r#"{"text":"Hello. How are you?","sample_rate":24000}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpokenTextInput {
    /// The text.
    pub text: String,
    /// The voice, for models that have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// `linear16`, `mulaw` or `alaw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// `wav`, or `none` for samples alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Samples of a second, from 8000 to 48000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Makes the sound repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl SpokenTextInput {
    /// What `text` says.
    ///
    /// ```
    /// let input = host_sdk::ai::SpokenTextInput::new("Hello");
    /// # assert_eq!(input.text, "Hello");
    /// ```
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}
