//! The lines that would grant what a worker lacks.
//!
//! A worker that asks for something it was not given should be told how to be given it, in the file it has, in the
//! syntax of that file. Errors of the host end with this text.

use std::path::Path;

use crate::tree::Syntax;
use crate::worker::Worker;

/// What a worker lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// An AI binding of this name.
    Ai,
    /// The right to run the model of this name: the worker's grant is narrowed to others.
    Model,
    /// The right to use the adapter of this name: the worker's grant is narrowed to others.
    Lora,
    /// A model of this name: the host has none.
    LocalModel,
    /// A variable.
    Variable,
    /// A secret.
    Secret,
    /// A key-value store.
    KvNamespace,
    /// A vector index.
    VectorIndex,
    /// A queue to send to.
    Queue,
    /// An SQL database.
    Database,
    /// An object store.
    Bucket,
    /// Another worker.
    Service,
    /// A binding for the worker's static files.
    Assets,
    /// A private address or host, with or without a port, to connect to.
    PrivateDestination,
}

/// Where in a file a worker is described.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Home {
    pub(crate) syntax: Syntax,
    /// Whether it is a `[[workers]]` entry.
    pub(crate) listed: bool,
    pub(crate) environment: Option<String>,
}

/// The lines that would grant `name`, for a worker at the top level of a file of this syntax.
///
/// For a secret they are lines of `.dev.vars`. They end without a newline.
pub fn explain_missing(missing: Missing, name: &str, syntax: Syntax) -> String {
    explain(missing, name, &Home { syntax, listed: false, environment: None })
}

impl Worker {
    /// The lines of this worker's binding file that would grant it `name`, after a comment that says which file and
    /// which place in it.
    pub fn explain_missing(&self, missing: Missing, name: &str) -> String {
        let file = self.file.file_name().map(Path::new).unwrap_or(&self.file).display();
        let comment = match self.home.syntax {
            Syntax::Toml => "#",
            Syntax::Jsonc => "//",
        };
        // With files already, only the name is lacking; without, their directory is too.
        let lines = match (missing, &self.assets) {
            (Missing::Assets, Some(_)) => one(&["assets"], "binding", text(name)).write(&self.home),
            _ => explain(missing, name, &self.home),
        };
        match missing {
            Missing::Secret => format!("# .dev.vars beside {file}\n{lines}"),
            Missing::LocalModel => format!("{comment} {file}\n{lines}"),
            _ if self.home.listed => format!("{comment} {file}, in the entry of \"{}\" in workers\n{lines}", self.name),
            _ => format!("{comment} {file}\n{lines}"),
        }
    }
}

/// A setting in the form of either syntax: `[section]` or `[[section]]` with keys.
struct Lines {
    section: &'static [&'static str],
    /// Whether the section is an array of tables.
    repeated: bool,
    /// Keys, and values as JSON, which TOML writes alike.
    keys: Vec<(String, String)>,
}

fn explain(missing: Missing, name: &str, home: &Home) -> String {
    let text = text(name);
    let listing = || format!("[{text}]");
    let lines = match missing {
        Missing::Secret => return format!("{}=\"…\"", key(name)),
        Missing::Ai => one(&["ai"], "binding", text),
        Missing::Model => one(&["ai"], "models", listing()),
        Missing::Lora => one(&["ai"], "loras", listing()),
        Missing::LocalModel => many(&["ai", "models"], &[("name", &text), ("path", "\"model.gguf\"")]),
        Missing::Variable => one(&["vars"], &key(name), "\"…\"".into()),
        Missing::KvNamespace => many(&["kv_namespaces"], &[("binding", &text)]),
        Missing::VectorIndex => many(&["vectorize"], &[("binding", &text), ("index_name", "\"…\"")]),
        Missing::Queue => many(&["queues", "producers"], &[("binding", &text), ("queue", "\"…\"")]),
        Missing::Database => many(&["d1_databases"], &[("binding", &text)]),
        Missing::Bucket => many(&["r2_buckets"], &[("binding", &text)]),
        Missing::Service => many(&["services"], &[("binding", &text), ("service", "\"…\"")]),
        Missing::Assets => {
            Lines { repeated: false, ..many(&["assets"], &[("directory", "\"./public\""), ("binding", &text)]) }
        }
        Missing::PrivateDestination => one(&["outbound"], "allow_private", listing()),
    };
    // Models are the host's, whatever the worker.
    let everywhere = Home { syntax: home.syntax, listed: false, environment: None };
    let home = if missing == Missing::LocalModel { &everywhere } else { home };
    lines.write(home)
}

fn one(section: &'static [&'static str], key: &str, value: String) -> Lines {
    Lines { section, repeated: false, keys: vec![(key.into(), value)] }
}

fn many(section: &'static [&'static str], keys: &[(&str, &str)]) -> Lines {
    let keys = keys.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Lines { section, repeated: true, keys }
}

impl Lines {
    fn write(&self, home: &Home) -> String {
        match home.syntax {
            Syntax::Toml => toml(self, home),
            Syntax::Jsonc => json(self, home),
        }
    }
}

fn toml(lines: &Lines, home: &Home) -> String {
    let mut path = Vec::new();
    if home.listed {
        path.push("workers".to_owned());
    }
    if let Some(environment) = &home.environment {
        path.extend(["env".to_owned(), key(environment)]);
    }
    path.extend(lines.section.iter().map(|part| (*part).to_owned()));
    let path = path.join(".");
    let header = if lines.repeated { format!("[[{path}]]") } else { format!("[{path}]") };
    let keys = lines.keys.iter().map(|(key, value)| format!("\n{key} = {value}"));
    keys.fold(header, |text, line| text + &line)
}

fn json(lines: &Lines, home: &Home) -> String {
    let keys: Vec<String> = lines.keys.iter().map(|(key, value)| format!("{}: {value}", quote(key))).collect();
    let object = format!("{{ {} }}", keys.join(", "));
    let mut value = if lines.repeated { format!("[{object}]") } else { object };
    let mut path: Vec<&str> = Vec::new();
    if let Some(environment) = &home.environment {
        path.extend(["env", environment.as_str()]);
    }
    path.extend(lines.section);
    while let Some(part) = path.pop() {
        let member = format!("{}: {value}", text(part));
        value = if path.is_empty() { member } else { format!("{{ {member} }}") };
    }
    value
}

/// A key for TOML: bare if it may be, else in quotes.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { text(name) }
}

/// A key for JSON, which is always in quotes.
fn quote(key: &str) -> String {
    if key.starts_with('"') { key.to_owned() } else { text(key) }
}

/// A string that TOML and JSON both read as `text`. The name may come from a guest.
fn text(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars().take(200) {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Missing; 14] = [
        Missing::Ai,
        Missing::Model,
        Missing::Lora,
        Missing::LocalModel,
        Missing::Variable,
        Missing::Secret,
        Missing::KvNamespace,
        Missing::VectorIndex,
        Missing::Queue,
        Missing::Database,
        Missing::Bucket,
        Missing::Service,
        Missing::Assets,
        Missing::PrivateDestination,
    ];

    #[test]
    fn the_lines_are_what_a_person_would_write() {
        assert_eq!(explain_missing(Missing::Ai, "AI", Syntax::Toml), "[ai]\nbinding = \"AI\"");
        assert_eq!(explain_missing(Missing::Ai, "AI", Syntax::Jsonc), "\"ai\": { \"binding\": \"AI\" }");
        assert_eq!(explain_missing(Missing::Secret, "TOKEN", Syntax::Jsonc), "TOKEN=\"…\"");
        let home = Home { syntax: Syntax::Toml, listed: true, environment: Some("staging".into()) };
        let lines = explain(Missing::Queue, "Q", &home);
        assert_eq!(lines, "[[workers.env.staging.queues.producers]]\nbinding = \"Q\"\nqueue = \"…\"");
        let home = Home { syntax: Syntax::Jsonc, ..home };
        let lines = explain(Missing::Variable, "K", &home);
        assert_eq!(lines, "\"env\": { \"staging\": { \"vars\": { \"K\": \"…\" } } }");
    }

    #[test]
    fn the_lines_are_valid_whatever_the_name() {
        for missing in ALL.into_iter().filter(|missing| *missing != Missing::Secret) {
            for name in ["AI", "a b", "\"\\\u{1b}\u{7f}\n", ""] {
                let lines = explain_missing(missing, name, Syntax::Toml);
                assert!(toml::from_str::<toml::Table>(&lines).is_ok(), "{lines}");
                let lines = format!("{{{}}}", explain_missing(missing, name, Syntax::Jsonc));
                assert!(serde_json::from_str::<serde_json::Value>(&lines).is_ok(), "{lines}");
            }
        }
    }
}
