//! The inputs and outputs of the tasks that are this host's own: what the words of a text are, and pictures and texts in one
//! space.
//!
//! A picture goes beside the inputs, as the [`Attachment`](super::Attachment) `image` of
//! [`Ai::run_with`](super::Ai::run_with).

use serde::{Deserialize, Serialize};

/// A text whose words are to be told apart; the output is a list of [`Entity`]s.
///
/// ```no_run
/// use host_sdk::*;
/// use host_sdk::ai::{Entity, TokenClassificationInput};
///
/// # async fn example(env: Env) -> Result<Vec<Entity>> {
/// env.ai("AI")?.run("my/ner", &TokenClassificationInput { text: "Ada lives in London".into() }).await
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenClassificationInput {
    /// The text.
    pub text: String,
}

/// A part of a text, and what it is.
///
/// ```
/// let text = r#"[{"entity_group":"PER","score":0.99,"word":"Ada","start":0,"end":3}]"#;
/// let entities: Vec<host_sdk::ai::Entity> = serde_json::from_str(text)?;
/// assert_eq!((entities[0].entity_group.as_str(), entities[0].end), ("PER", 3));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// What it is: `PER`, `LOC`, …, as the model names it.
    pub entity_group: String,
    /// How sure the model is, 0 to 1.
    pub score: f64,
    /// The part of the text.
    pub word: String,
    /// Where it begins, in characters (Unicode code points).
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Texts of which one may say what a picture shows; the picture is the attachment `image`, the output a list of
/// [`Label`](super::Label)s, best first.
///
/// ```
/// let input = host_sdk::ai::ZeroShotImageClassificationInput::new(["a cat", "a dog"]);
/// assert_eq!(serde_json::to_string(&input)?, r#"{"labels":["a cat","a dog"]}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ZeroShotImageClassificationInput {
    /// The texts.
    pub labels: Vec<String>,
    /// A sentence in which `{}` stands for a label; `This is a photo of {}.` if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypothesis_template: Option<String>,
}

impl ZeroShotImageClassificationInput {
    /// The texts to choose from.
    ///
    /// ```
    /// let input = host_sdk::ai::ZeroShotImageClassificationInput::new(["rain", "sun"]);
    /// assert_eq!(input.labels.len(), 2);
    /// ```
    pub fn new<S: Into<String>>(labels: impl IntoIterator<Item = S>) -> Self {
        Self { labels: labels.into_iter().map(Into::into).collect(), hypothesis_template: None }
    }

    /// Sets the sentence in which `{}` stands for a label.
    ///
    /// ```
    /// let input = host_sdk::ai::ZeroShotImageClassificationInput::new(["rain"]).hypothesis_template("A day of {}.");
    /// assert_eq!(input.hypothesis_template.as_deref(), Some("A day of {}."));
    /// ```
    pub fn hypothesis_template(mut self, template: impl Into<String>) -> Self {
        self.hypothesis_template = Some(template.into());
        self
    }
}

/// Texts to put into the space of pictures. A picture is the attachment `image`; its vector is the first.
///
/// ```
/// let input = host_sdk::ai::ImageEmbeddingsInput { text: vec!["a boat at sea".into()] };
/// assert_eq!(serde_json::to_string(&input)?, r#"{"text":["a boat at sea"]}"#);
/// assert_eq!(serde_json::to_string(&host_sdk::ai::ImageEmbeddingsInput::default())?, "{}");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageEmbeddingsInput {
    /// The texts; none for a picture alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

/// The vector of the picture, if there was one, and one for each text, in order. Each has the length 1, so a product is how
/// near two are.
///
/// ```
/// let output: host_sdk::ai::ImageEmbeddingsOutput = serde_json::from_str(r#"{"shape":[1,2],"data":[[0.6,0.8]]}"#)?;
/// assert_eq!(output.data[0].len(), output.shape[1]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageEmbeddingsOutput {
    /// The number of vectors and the length of one.
    pub shape: Vec<usize>,
    /// The vectors.
    pub data: Vec<Vec<f32>>,
}
