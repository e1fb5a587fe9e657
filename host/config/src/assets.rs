//! `[assets]`: a worker's static files, as a binding file describes them.
//!
//! What is served, and how, is Cloudflare's ("Static Assets" in its documentation); here are only the settings. Whether
//! a request goes to the worker before the files is decided by [`RunWorkerFirst`], which is also the only part of the
//! section that holds patterns, so its grammar and its matching stand together. The rules for both are those of
//! Cloudflare's router: a file that its tool refuses is refused here.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::diagnostic::quoted;
use crate::paths::absolute;
use crate::source::{Report, Span, Spanned};
use crate::tree::{Node, Table};

/// How many patterns `run_worker_first` may hold.
const MOST_PATTERNS: usize = 100;

/// How many bytes a pattern of `run_worker_first` may have, its `!` included.
const LONGEST_PATTERN: usize = 100;

/// `[assets]`: the static files of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assets {
    /// The directory of the files, absolute. It was there when the project was loaded. Key `directory`.
    pub directory: PathBuf,
    /// The name under which the worker sees the files; the worker's bindings have it too. Key `binding`.
    pub binding: Option<String>,
    /// The path under which the files are served, not percent-encoded, with a slash at both ends, as in `/docs/`; none
    /// for the root. Key `base_path`.
    pub base_path: Option<String>,
    /// How paths find HTML files. Key `html_handling`.
    pub html_handling: HtmlHandling,
    /// What answers a path without a file. Key `not_found_handling`.
    pub not_found_handling: NotFoundHandling,
    /// Which requests the worker answers before the files. Key `run_worker_first`.
    pub run_worker_first: RunWorkerFirst,
}

/// How paths find HTML files, and which of the paths that could find one is the file's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HtmlHandling {
    /// `a.html` answers at `/a`, `a/index.html` at `/a/`.
    #[default]
    AutoTrailingSlash,
    /// Both answer at `/a/`.
    ForceTrailingSlash,
    /// Both answer at `/a`.
    DropTrailingSlash,
    /// A file answers at its own name alone.
    None,
}

/// What answers a path without a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum NotFoundHandling {
    /// `/index.html`, with status 200.
    #[serde(rename = "single-page-application")]
    SinglePageApplication,
    /// The nearest `404.html` above the path, with status 404.
    #[serde(rename = "404-page")]
    NotFoundPage,
    /// Nothing: the worker, if there is one.
    #[default]
    #[serde(rename = "none")]
    None,
}

/// Which requests the worker answers before the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunWorkerFirst {
    /// None: the worker answers what no file does. `false`.
    #[default]
    No,
    /// All of them. `true`.
    Always,
    /// Those with these paths. An array of patterns.
    Paths {
        /// Paths that go to the worker.
        include: Vec<PathGlob>,
        /// Paths that go to the files and never to the worker, whatever `include` says: written with a `!`.
        exclude: Vec<PathGlob>,
    },
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The worker; the files are not looked at.
    Worker,
    /// The files; what they do not answer is the worker's.
    AssetsThenWorker,
    /// The files alone; what they do not answer is not found.
    Assets,
}

impl RunWorkerFirst {
    /// Who answers a request for a path: percent-encoded as a URL has it, without a query.
    pub fn turn(&self, path: &str) -> Turn {
        match self {
            RunWorkerFirst::No => Turn::AssetsThenWorker,
            RunWorkerFirst::Always => Turn::Worker,
            RunWorkerFirst::Paths { exclude, .. } if exclude.iter().any(|glob| glob.matches(path)) => Turn::Assets,
            RunWorkerFirst::Paths { include, .. } if include.iter().any(|glob| glob.matches(path)) => Turn::Worker,
            RunWorkerFirst::Paths { .. } => Turn::AssetsThenWorker,
        }
    }
}

/// A pattern of paths: `*` stands for any characters, slashes among them, and everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathGlob(String);

impl PathGlob {
    /// Whether a path belongs to the pattern. The work is at most the product of both lengths, never exponential.
    pub fn matches(&self, path: &str) -> bool {
        let (pattern, path) = (self.0.as_bytes(), path.as_bytes());
        let (mut at, mut seen) = (0, 0);
        // Where to go on from when the characters after the last `*` turn out to stand elsewhere.
        let mut retry: Option<(usize, usize)> = None;
        while seen < path.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    retry = Some((at, seen));
                }
                Some(byte) if *byte == path[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((after, from)) = retry else { return false };
                    at = after;
                    seen = from + 1;
                    retry = Some((after, seen));
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PathGlob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The section before the directory is looked for: an environment may inherit it, and only the chosen one must be there.
#[derive(Clone, Debug)]
pub(crate) struct AssetsLayer {
    directory: Option<Spanned<String>>,
    pub(crate) binding: Option<Spanned<String>>,
    base_path: Option<String>,
    html_handling: HtmlHandling,
    not_found_handling: NotFoundHandling,
    run_worker_first: RunWorkerFirst,
    worker_first_span: Option<Span>,
}

/// Decodes the section.
pub(crate) fn decode(table: &Table, report: &mut Report) -> AssetsLayer {
    let text = |key: &str| table.text(key).map(|(text, span)| Spanned { value: text.to_owned(), span });
    let choice = |key: &str| table.text(key).map(|(text, _)| text).unwrap_or_default();
    AssetsLayer {
        directory: text("directory"),
        binding: text("binding"),
        base_path: table.text("base_path").and_then(|(text, span)| base_path(text, span, report)),
        html_handling: match choice("html_handling") {
            "force-trailing-slash" => HtmlHandling::ForceTrailingSlash,
            "drop-trailing-slash" => HtmlHandling::DropTrailingSlash,
            "none" => HtmlHandling::None,
            _ => HtmlHandling::AutoTrailingSlash,
        },
        not_found_handling: match choice("not_found_handling") {
            "single-page-application" => NotFoundHandling::SinglePageApplication,
            "404-page" => NotFoundHandling::NotFoundPage,
            _ => NotFoundHandling::None,
        },
        run_worker_first: run_worker_first(table, report),
        worker_first_span: table.get("run_worker_first").map(|entry| entry.key_span),
    }
}

impl AssetsLayer {
    /// Looks for the directory; none if it is not there, which is reported. `has_main` is whether a worker stands behind
    /// the files.
    pub(crate) fn finish(self, base: &Path, has_main: bool, report: &mut Report) -> Option<Assets> {
        if !has_main {
            self.check_without_main(report);
        } else if let (RunWorkerFirst::Always, None, Some(span)) =
            (&self.run_worker_first, &self.binding, self.worker_first_span)
        {
            let help = "add `binding = \"ASSETS\"` to `assets`, so that the worker can fetch them, or leave out `run_worker_first`";
            report.warn(span, "the worker answers every request and has no binding for its assets", Some(help.into()));
        }
        let directory = directory(self.directory.as_ref()?, base, report)?;
        Some(Assets {
            directory,
            binding: self.binding.map(|binding| binding.value),
            base_path: self.base_path,
            html_handling: self.html_handling,
            not_found_handling: self.not_found_handling,
            run_worker_first: self.run_worker_first,
        })
    }

    fn check_without_main(&self, report: &mut Report) {
        if let Some(binding) = &self.binding {
            let help = "remove it, or add `main` with the worker that uses it";
            report.error_with_help(binding.span, "`assets` has a binding, but there is no worker to see it", help);
        }
        if let (Some(span), true) = (self.worker_first_span, self.run_worker_first != RunWorkerFirst::No) {
            let help = "remove it, or add `main` with the worker to run";
            report.error_with_help(span, "`run_worker_first` is set, but there is no worker to run", help);
        }
    }
}

/// The directory that `directory` names, absolute.
fn directory(named: &Spanned<String>, base: &Path, report: &mut Report) -> Option<PathBuf> {
    let (text, span) = (named.value.as_str(), named.span);
    let Some(path) = absolute(base, Path::new(text)) else {
        report.error_with_help(
            span,
            "the directory of the assets is empty",
            "write \".\" for that of the binding file",
        );
        return None;
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Some(path),
        Ok(_) => {
            let help = "`directory` names the directory whose files are served";
            report.error_with_help(span, format!("{} is not a directory", quoted(text)), help);
            None
        }
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let help = "build the assets first; the path is relative to the binding file";
            report.error_with_help(span, format!("the directory {} does not exist", quoted(text)), help);
            None
        }
        Err(error) => {
            report.error(span, format!("{} cannot be read: {error}", quoted(text)));
            None
        }
    }
}

/// The prefix in its one form, or none for the root.
fn base_path(text: &str, span: Span, report: &mut Report) -> Option<String> {
    let scheme = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    });
    let fault = if text.is_empty() {
        Some("it is empty")
    } else if scheme || text.starts_with("//") {
        Some("it is a URL, not a path")
    } else if text.contains('\\') || text.chars().any(|c| c.is_ascii_control()) {
        Some("it holds a backslash or a control character")
    } else if text.contains(['?', '#']) {
        Some("it holds a query or fragment")
    } else if text.contains('%') {
        Some("it is percent-encoded")
    } else {
        None
    };
    if let Some(fault) = fault {
        let message = format!("`base_path`: {} is no path to serve under: {fault}", quoted(text));
        report.error_with_help(span, message, "write a path, as in \"/docs\"");
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    (!segments.is_empty()).then(|| format!("/{}/", segments.join("/")))
}

fn run_worker_first(table: &Table, report: &mut Report) -> RunWorkerFirst {
    match (table.boolean("run_worker_first"), table.get("run_worker_first")) {
        (Some(true), _) => RunWorkerFirst::Always,
        (None, Some(entry)) => match table.array("run_worker_first") {
            Some(nodes) if matches!(entry.node.value, crate::tree::Value::Array(_)) => {
                patterns(nodes, entry.key_span, report)
            }
            _ => RunWorkerFirst::No,
        },
        _ => RunWorkerFirst::No,
    }
}

fn patterns(nodes: &[Node], span: Span, report: &mut Report) -> RunWorkerFirst {
    if nodes.is_empty() || nodes.len() > MOST_PATTERNS {
        let message = format!("`run_worker_first` holds {} patterns; it takes 1 to {MOST_PATTERNS}", nodes.len());
        report.error_with_help(span, message, "write `true` for every path and `false` for none");
        return RunWorkerFirst::No;
    }
    let texts: Vec<(&str, Span)> = nodes.iter().filter_map(|node| Some((node.as_text()?, node.span))).collect();
    let (mut include, mut exclude, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for &(text, span) in &texts {
        let fault = if !text.starts_with('/') && !text.starts_with("!/") {
            Some("it starts with neither `/` nor `!/`".to_owned())
        } else if text.len() > LONGEST_PATTERN {
            Some(format!("it is longer than {LONGEST_PATTERN} bytes"))
        } else if !seen.insert(text) {
            Some("it stands twice".to_owned())
        } else {
            covering(text, &texts).map(|other| format!("{} matches its paths already", quoted(other)))
        };
        match (fault, text.strip_prefix('!')) {
            (Some(fault), _) => {
                let message = format!("`run_worker_first`: {} is wrong: {fault}", quoted(text));
                report.error_with_help(
                    span,
                    message,
                    "a pattern is a path as in \"/api/*\", or \"!/api/docs/*\" for the files",
                );
            }
            (None, Some(path)) => exclude.push(PathGlob(path.to_owned())),
            (None, None) => include.push(PathGlob(text.to_owned())),
        }
    }
    if !texts.is_empty() && texts.iter().all(|(text, _)| text.starts_with("!/")) {
        let message = "`run_worker_first` holds only patterns with `!`, which take paths away from others";
        report.error_with_help(span, message, "add one without, as in \"/*\"");
    }
    RunWorkerFirst::Paths { include, exclude }
}

/// A pattern of the same kind that ends in `*` and begins as `text` does, so that `text` says nothing new.
fn covering<'t>(text: &str, texts: &[(&'t str, Span)]) -> Option<&'t str> {
    texts.iter().map(|(other, _)| *other).find(|other| {
        *other != text
            && other.strip_suffix('*').is_some_and(|prefix| prefix.starts_with(['/', '!']) && text.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str, path: &str) -> bool {
        PathGlob(pattern.to_owned()).matches(path)
    }

    #[test]
    fn globs_match_whole_paths() {
        let cases = [
            ("/api/*", "/api/x", true),
            ("/api/*", "/api/", true),
            ("/api/*", "/api", false),
            ("/api*", "/apis/x", true),
            ("/*/edit", "/a/b/edit", true),
            ("/*/edit", "/a/edit/", false),
            ("/a*b*c", "/abbc", true),
            ("/a*b*c", "/acb", false),
            ("/", "/", true),
            ("/", "/x", false),
            ("/a.b", "/aXb", false),
            ("/**", "/x", true),
            ("/[x]", "/[x]", true),
            ("/", "", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(glob(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_hostile_path_takes_no_exponential_time() {
        assert!(!glob(&format!("/{}b", "*a".repeat(40)), &format!("/{}", "a".repeat(20_000))));
    }

    #[test]
    fn what_is_excluded_is_never_the_workers() {
        let globs = |texts: &[&str]| texts.iter().map(|text| PathGlob((*text).to_owned())).collect();
        let first = RunWorkerFirst::Paths { include: globs(&["/api/*"]), exclude: globs(&["/api/docs/*"]) };
        assert_eq!(first.turn("/api/x"), Turn::Worker);
        assert_eq!(first.turn("/api/docs/x"), Turn::Assets);
        assert_eq!(first.turn("/x"), Turn::AssetsThenWorker);
        assert_eq!(RunWorkerFirst::Always.turn("/x"), Turn::Worker);
        assert_eq!(RunWorkerFirst::No.turn("/x"), Turn::AssetsThenWorker);
    }
}
