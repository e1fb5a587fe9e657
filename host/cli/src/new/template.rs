//! The templates: which there are, and how one becomes the files of a project.
//!
//! A template is a folder of `templates/`, whose README says what is replaced. It is part of the binary, so its text
//! can be trusted; the name that is put into it has been checked to fit everywhere. Replacing is one pass over the
//! text, so that nothing that was put in is read again.

use std::borrow::Cow;

use crate::args::Lang;

/// A file's name, whose first part is the template's folder, and its text.
type File = (&'static str, &'static str);

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// A template in one language.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    pub(super) lang: Lang,
    /// What it makes, in a few words.
    pub(super) summary: &'static str,
    /// Its folder of `templates/`.
    folder: &'static str,
    /// Whether its binding file names models.
    pub(super) models: bool,
    /// What may be asked of it: arguments of `curl`.
    pub(super) requests: &'static [&'static str],
}

const HELLO: &str = "answers with a text";
const CHAT: &str = "answers questions with a language model, whole or streamed";
const GREET: &[&str] = &["'http://localhost:8787/?name=Ada'"];
const ASK: &[&str] =
    &["'http://localhost:8787/?q=Why+is+the+sky+blue?'", "-N 'http://localhost:8787/?q=Tell+me+a+story&stream'"];
const ASK_DOCUMENTS: &[&str] = &[
    "--data-binary @documents.json http://localhost:8787/documents",
    "http://localhost:8787/status",
    "'http://localhost:8787/ask?q=When+is+the+workshop+open?'",
];

const DRAW: &[&str] = &["-o picture.png 'http://localhost:8787/api/draw?prompt=a+lighthouse+in+a+storm'"];
const LISTEN: &[&str] = &["--data-binary @speech.mp3 http://localhost:8787/api/transcribe"];

/// Every template. The first of a name, and the first of a language, is the one meant when the other is not given.
pub(super) const TEMPLATES: &[Template] = &[
    Template { name: "chat", lang: Lang::Ts, summary: CHAT, folder: "chat-ts", models: true, requests: ASK },
    Template { name: "chat", lang: Lang::Js, summary: CHAT, folder: "chat-js", models: true, requests: ASK },
    Template {
        name: "rag",
        lang: Lang::Ts,
        summary: "answers questions about documents from a queue and a vector index",
        folder: "rag-ts",
        models: true,
        requests: ASK_DOCUMENTS,
    },
    Template {
        name: "draw",
        lang: Lang::Ts,
        summary: "a page that asks for pictures",
        folder: "draw-ts",
        models: false,
        requests: DRAW,
    },
    Template {
        name: "transcribe",
        lang: Lang::Ts,
        summary: "a page that writes down what is said",
        folder: "transcribe-ts",
        models: true,
        requests: LISTEN,
    },
    Template { name: "hello", lang: Lang::Ts, summary: HELLO, folder: "hello-ts", models: false, requests: GREET },
    Template { name: "hello", lang: Lang::Js, summary: HELLO, folder: "hello-js", models: false, requests: GREET },
    Template { name: "rust-chat", lang: Lang::Rust, summary: CHAT, folder: "rust-chat", models: true, requests: ASK },
];

/// There is no such template.
#[derive(Debug, thiserror::Error)]
#[error("there is no template {what}; there are\n{}", list().trim_end())]
pub(super) struct NoTemplate {
    what: String,
}

/// The template of a name in a language.
pub(super) fn find(name: Option<&str>, lang: Option<Lang>) -> Result<&'static Template, NoTemplate> {
    let fits = |template: &&Template| {
        name.is_none_or(|name| template.name == name) && lang.is_none_or(|lang| template.lang == lang)
    };
    TEMPLATES.iter().find(fits).ok_or_else(|| {
        let known = name.is_none_or(|name| TEMPLATES.iter().any(|template| template.name == name));
        let name = name.map_or(String::new(), |name| format!("{name:?}"));
        let what = match lang {
            Some(lang) if known => format!("{name} in {}", lang.title()),
            _ => name,
        };
        NoTemplate { what }
    })
}

/// The templates, a line each.
pub(super) fn list() -> String {
    let row = |template: &Template| {
        let arguments = format!("--template {} --lang {}", template.name, template.lang.name());
        format!("  {arguments:<32}  {}\n", template.summary)
    };
    TEMPLATES.iter().map(row).collect()
}

impl Template {
    /// The files of a project: their paths, parts separated by `/`, and texts.
    pub(super) fn files(&self, name: &str, sdk: &str) -> Vec<(String, String)> {
        let values = [("name", name), ("sdk", sdk)];
        let own = FILES.iter().filter_map(|(path, text)| {
            let path = self.folders().find_map(|folder| path.strip_prefix(&*folder)?.strip_prefix('/'))?;
            Some((renamed(path).into_owned(), filled(text, &values)))
        });
        own.collect()
    }

    /// The folders whose files make a project: its own, and what it shares with its other languages and with all scripts.
    fn folders(&self) -> impl Iterator<Item = Cow<'static, str>> {
        let scripts = (!self.needs_sdk()).then_some("shared/scripts".into());
        [self.folder.into(), format!("shared/{}", self.name).into()].into_iter().chain(scripts)
    }

    /// Whether a project of it needs to be told where the SDK is.
    pub(super) fn needs_sdk(&self) -> bool {
        self.lang == Lang::Rust
    }
}

/// What a file of a template is called in a project.
fn renamed(path: &str) -> Cow<'_, str> {
    let (folder, file) = path.rsplit_once('/').map_or(("", path), |(folder, file)| (folder, file));
    let file = match file {
        "gitignore" => ".gitignore",
        "Cargo.toml.in" => "Cargo.toml",
        _ => return path.into(),
    };
    if folder.is_empty() { file.into() } else { format!("{folder}/{file}").into() }
}

/// A text with `{{key}}` replaced by the key's value. What names no key stays: other languages have braces too.
fn filled(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let (before, place) = rest.split_at(at);
        filled.push_str(before);
        let known = values.iter().find_map(|(key, value)| {
            let after = place.strip_prefix("{{")?.strip_prefix(key)?.strip_prefix("}}")?;
            Some((*value, after))
        });
        // One brace at a time: in `{{{name}}`, the second brace is where a place begins.
        let (value, after) = known.unwrap_or_else(|| place.split_at(1));
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_a_template_and_every_template_has_its_files() {
        for (path, _) in FILES {
            let used = |template: &Template| template.folders().any(|folder| path.starts_with(&format!("{folder}/")));
            assert!(TEMPLATES.iter().any(used), "{path} belongs to no template");
            assert!(!path.split('/').any(|part| part.starts_with('.') || part == "node_modules"), "{path}");
        }
        for template in TEMPLATES {
            let files = template.files("demo", "path = \"/sdk\"");
            for wanted in ["wrangler.toml", "README.md", ".gitignore"] {
                assert!(files.iter().any(|(path, _)| path == wanted), "{template:?} has no {wanted}");
            }
            let tests = ["test/host.js", "test/worker.test.js"];
            let has = |wanted| files.iter().filter(|(path, _)| path == wanted).count();
            assert!(tests.iter().all(|test| has(*test) == usize::from(!template.needs_sdk())), "{template:?}");
            for (path, text) in files {
                assert!(!text.contains("{{") && !path.ends_with(".in"), "{template:?} {path}");
            }
        }
    }

    #[test]
    fn pages_and_workers_are_those_of_the_examples() {
        let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        for (name, folders) in [("draw", &["public", "src"][..]), ("transcribe", &["public", "src"]), ("rag", &["src"])]
        {
            let own = |path: &str| FILES.iter().find(|(file, _)| *file == format!("{name}-ts/{path}")).unwrap().1;
            let mut paths = if name == "rag" { vec!["documents.json".to_owned()] } else { Vec::new() };
            for folder in folders {
                let files = std::fs::read_dir(examples.join(name).join(folder)).unwrap();
                paths.extend(files.map(|file| format!("{folder}/{}", file.unwrap().file_name().display())));
            }
            for path in paths {
                let example = std::fs::read_to_string(examples.join(name).join(&path)).unwrap();
                assert_eq!(own(&path), example, "{name}: {path}; a change of one belongs in the other");
            }
        }
    }

    #[test]
    fn what_is_left_open_is_chosen() {
        let found = |name, lang| find(name, lang).map(|template| template.folder).ok();
        assert_eq!(found(None, None), Some("chat-ts"));
        assert_eq!(found(Some("rag"), None), Some("rag-ts"));
        assert_eq!(found(None, Some(Lang::Js)), Some("chat-js"));
        assert_eq!(found(None, Some(Lang::Rust)), Some("rust-chat"));
        assert_eq!(found(Some("rust-chat"), None), Some("rust-chat"));
        assert_eq!(found(Some("rag"), Some(Lang::Js)), None);
        assert_eq!(found(Some("nothing"), None), None);
    }

    #[test]
    fn what_does_not_exist_is_answered_with_what_does() {
        for (lang, what) in [(None, "\"rgb\""), (Some(Lang::Js), "\"rgb\"")] {
            let message = find(Some("rgb"), lang).unwrap_err().to_string();
            assert!(message.starts_with(&format!("there is no template {what}; there are\n")), "{message}");
            assert!(message.contains("--template rust-chat --lang rust"), "{message}");
        }
        let message = find(Some("rag"), Some(Lang::Rust)).unwrap_err().to_string();
        assert!(message.starts_with("there is no template \"rag\" in Rust; there are\n"), "{message}");
    }

    #[test]
    fn places_are_filled_once_and_other_braces_stay() {
        let values = [("name", "{{sdk}}"), ("sdk", "x")];
        for (text, expected) in [
            ("", ""),
            ("a {{name}} b {{sdk}}", "a {{sdk}} b x"),
            ("host = { {{sdk}} }", "host = { x }"),
            ("{{{sdk}}}", "{x}"),
            ("{{ name }} {{nam}} {{", "{{ name }} {{nam}} {{"),
            ("ü{{sdk}}ü", "üxü"),
        ] {
            assert_eq!(filled(text, &values), expected);
        }
    }

    #[test]
    fn files_are_renamed_in_folders_too() {
        for (path, expected) in [("gitignore", ".gitignore"), ("a/Cargo.toml.in", "a/Cargo.toml"), ("a/b.ts", "a/b.ts")]
        {
            assert_eq!(renamed(path), expected);
        }
    }
}
