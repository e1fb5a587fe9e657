//! `_headers`, `_redirects` and `.assetsignore`: rules that lie among the files.
//!
//! They are read when one of them has changed, never per request. A line that means nothing is left out with a warning
//! that says which, as Cloudflare's tool does; the bounds are Cloudflare's too, so that a file that loads here loads
//! there. `.assetsignore` fails closed: what it might have hidden is not shown because it could not be read.

mod headers;
mod pattern;
mod redirects;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

pub(crate) use headers::HeaderRules;
pub(crate) use redirects::{Redirect, Redirects};

use host_config::HtmlHandling;

use crate::etag::Look;
use crate::tree::{HEADERS, IGNORED, REDIRECTS, Tree};

/// The longest line of a rule, in characters.
const LONGEST_LINE: usize = 2000;

/// The largest file of rules, in bytes: more than all rules with the longest lines.
const LARGEST_FILE: u64 = 8 << 20;

/// How many warnings are kept of one file.
const MOST_WARNINGS: usize = 100;

/// A line of a file of rules that has no effect, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file's name.
    pub file: &'static str,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Collects what is wrong with one file.
struct Warnings {
    file: &'static str,
    all: Vec<Warning>,
}

impl Warnings {
    fn of(file: &'static str) -> Self {
        Warnings { file, all: Vec::new() }
    }

    fn add(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        if self.all.len() < MOST_WARNINGS {
            self.all.push(Warning { file: self.file, line: line.into(), message: message.into() });
        }
    }
}

/// The rules of one moment.
pub(crate) struct Rules {
    pub(crate) headers: HeaderRules,
    pub(crate) redirects: Redirects,
    pub(crate) ignored: Gitignore,
    pub(crate) warnings: Vec<Warning>,
}

impl Rules {
    fn read(tree: &Tree, html: HtmlHandling) -> Self {
        let [mut of_headers, mut of_redirects, mut of_ignored] = [HEADERS, REDIRECTS, IGNORED].map(Warnings::of);
        let headers = headers::parse(&text(tree, &mut of_headers, ""), &mut of_headers);
        let redirects = redirects::parse(&text(tree, &mut of_redirects, ""), html, &mut of_redirects);
        let ignored = ignored(&text(tree, &mut of_ignored, "*"), &mut of_ignored);
        let warnings = [of_headers, of_redirects, of_ignored].into_iter().flat_map(|warnings| warnings.all).collect();
        Rules { headers, redirects, ignored, warnings }
    }
}

/// A file of rules; nothing where there is none, and `otherwise` where it cannot be read.
fn text(tree: &Tree, warnings: &mut Warnings, otherwise: &str) -> String {
    match read(&tree.top(warnings.file)) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            warnings.add(None, format!("cannot be read: {error}"));
            otherwise.to_owned()
        }
    }
}

/// The text of a file; none if there is no file.
fn read(path: &Path) -> io::Result<Option<String>> {
    // Opening a pipe would wait for a writer.
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(io::Error::other("it is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST_FILE >> 20)));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The patterns of `.gitignore`'s grammar.
fn ignored(text: &str, warnings: &mut Warnings) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for (index, line) in text.lines().enumerate() {
        if let Err(error) = builder.add_line(None, line) {
            warnings.add(index + 1, format!("no pattern: {error}"));
        }
    }
    builder.build().unwrap_or_else(|error| {
        warnings.add(None, format!("its patterns cannot be used, so nothing is served: {error}"));
        let mut everything = GitignoreBuilder::new("");
        everything.add_line(None, "*").and_then(|all| all.build()).unwrap_or_else(|_| Gitignore::empty())
    })
}

/// Lines with something in them, from 1, that are not too long. Comments are left out.
fn lines<'t>(text: &'t str, warnings: &mut Warnings) -> Vec<(usize, &'t str)> {
    let mut lines = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.chars().nth(LONGEST_LINE).is_some() {
            warnings.add(index + 1, format!("ignored: the line is longer than {LONGEST_LINE} characters"));
            continue;
        }
        lines.push((index + 1, line));
    }
    lines
}

/// The rules as they were last read.
pub(crate) struct RuleCache {
    read: Mutex<(Looks, Arc<Rules>)>,
    html: HtmlHandling,
}

/// What the three files look like; none for one that is not there.
type Looks = [Option<Look>; 3];

fn looks(tree: &Tree) -> Looks {
    [HEADERS, REDIRECTS, IGNORED].map(|name| std::fs::metadata(tree.top(name)).ok().map(|found| Look::of(&found)))
}

impl RuleCache {
    /// Reads the rules.
    pub(crate) fn new(tree: &Tree, html: HtmlHandling) -> Self {
        let looks = looks(tree);
        RuleCache { read: Mutex::new((looks, read_and_tell(tree, html, None))), html }
    }

    /// The rules, read again if a file has changed, or has changed so lately that another change might not show.
    pub(crate) fn current(&self, tree: &Tree) -> Arc<Rules> {
        let looks = looks(tree);
        let mut last = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = looks.iter().flatten().all(Look::is_settled);
        if last.0 != looks || !settled {
            *last = (looks, read_and_tell(tree, self.html, Some(&last.1)));
        }
        last.1.clone()
    }

    /// The rules as they were last read.
    pub(crate) fn last(&self) -> Arc<Rules> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// Reads the rules and logs what is wrong with them, unless it was so before.
fn read_and_tell(tree: &Tree, html: HtmlHandling, last: Option<&Rules>) -> Arc<Rules> {
    let rules = Rules::read(tree, html);
    if last.is_none_or(|last| last.warnings != rules.warnings) {
        for warning in &rules.warnings {
            tracing::warn!("{warning}");
        }
    }
    Arc::new(rules)
}

/// A file's text as rules read it, for the tests of the grammars.
#[cfg(test)]
fn collect<T>(file: &'static str, parse: impl FnOnce(&mut Warnings) -> T) -> (T, Vec<String>) {
    let mut warnings = Warnings::of(file);
    let parsed = parse(&mut warnings);
    (parsed, warnings.all.iter().map(Warning::to_string).collect())
}
