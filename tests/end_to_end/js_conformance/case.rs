//! What stands in a `case.json`. A key that is not known is a fault of the case.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A folder with a case.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) said: Said,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    pub(super) about: String,
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) base64_files: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) workers: Vec<String>,
    pub(super) steps: Option<Vec<Step>>,
    pub(super) build_error: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) worker: Option<String>,
    pub(super) request: Option<Request>,
    pub(super) scheduled: Option<Scheduled>,
    #[serde(default)]
    pub(super) expect: Expect,
    pub(super) remember: Option<String>,
    #[serde(default)]
    pub(super) log: Vec<String>,
    #[serde(default)]
    pub(super) log_once: Vec<String>,
    #[serde(default)]
    pub(super) log_lacks: Vec<String>,
    pub(super) log_before: Option<Before>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scheduled {
    pub(super) cron: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    pub(super) count: usize,
    pub(super) of: String,
    pub(super) before: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    #[serde(default = "get")]
    pub(super) method: String,
    #[serde(default = "root")]
    pub(super) path: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Lines>,
    pub(super) body: Option<Body>,
    #[serde(default)]
    pub(super) leave: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Lines {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Body {
    Text(String),
    Json(Json),
    Base64(Base64),
    Repeat(Repeat),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Json {
    pub(super) json: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base64 {
    pub(super) base64: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    pub(super) repeat: String,
    pub(super) times: usize,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) status: Option<Statuses>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Header>,
    #[serde(default, deserialize_with = "present")]
    pub(super) json: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) parts: Option<Value>,
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
    #[serde(default)]
    pub(super) echo: bool,
    #[serde(default)]
    pub(super) contains: Vec<String>,
    #[serde(default)]
    pub(super) lacks: Vec<String>,
    pub(super) first_piece: Option<Piece>,
    pub(super) differs_from: Option<String>,
    #[serde(default)]
    pub(super) incomplete: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Statuses {
    One(u16),
    Several(Vec<u16>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Header {
    Absent(()),
    Text(String),
    Lines(Vec<String>),
    Contains(Contains),
    Any(Any),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contains {
    pub(super) contains: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Any {
    pub(super) any: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    #[serde(default)]
    pub(super) contains: Vec<String>,
    #[serde(default)]
    pub(super) lacks: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// A null that is expected is something else than nothing that is expected.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Case {
    /// The cases of a folder by their names. Panics where one is not as the README has it.
    pub(super) fn all(folder: &Path) -> VecDeque<Case> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && !path.ends_with("node_modules"))
            .collect();
        folders.sort();
        folders.into_iter().map(Case::read).collect()
    }

    fn read(folder: PathBuf) -> Case {
        let file = folder.join("case.json");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let said: Said = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!said.about.is_empty(), "{name} says nothing about itself");
        assert!(said.steps.is_some() != said.build_error.is_some(), "{name} has either steps or a build_error");
        for step in said.steps.iter().flatten() {
            assert!(
                step.request.is_some() != step.scheduled.is_some(),
                "{name}: a step is a request or a scheduled event"
            );
        }
        Case { name, folder, said }
    }
}
