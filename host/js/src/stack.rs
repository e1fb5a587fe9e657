//! From positions in a script back to those in its sources.
//!
//! An engine reports where something happened in the script that it evaluated, which the bundler wrote. SpiderMonkey
//! writes a frame of a stack as `name@worker.js:LINE:COLUMN`, lines and columns counted from 1. Code that was evaluated
//! and has no name of its own is called after the place where that was done, `name@FILE line LINE > eval:LINE:COLUMN`;
//! its own position comes last. A [`Mapper`] finds these in whatever a worker logs and puts the source's position in their
//! place (ECMA-426, "Source map format"). Code that the script evaluates in turn has no source, and its frames stay.
//!
//! Both the text and the map come from a worker, so the work is bounded by the text's length and nothing that a map
//! names is opened.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sourcemap::SourceMap;

use crate::text;

/// The largest map that is read.
const LARGEST: u64 = 64 * 1024 * 1024;
/// How many positions a map may have; each takes 28 bytes while the map is decoded.
const POSITIONS: usize = 16 * 1024 * 1024;
/// How many digits of base 32 a number of a map may have: these hold 32 bits and a sign.
const DIGITS: usize = 7;
/// The longest prefix for all sources of a map.
const LONGEST_ROOT: usize = 4096;
/// The longest name of a source that is written into a log.
const LONGEST_NAME: usize = 1000;
/// How many positions of one text are looked up.
const LOOKED_UP: usize = 1000;
/// The name that a worker's script gives itself.
const SCRIPT: &str = "worker.js";
/// The names that the engine can have for it. Without that name it is what the runtime evaluated at one of its lines.
const NAMES: [&str; 2] = [SCRIPT, "runtime.mjs"];

/// The source map of a worker's script.
#[derive(Debug)]
pub struct Mapper {
    /// In the order of their places in the script.
    positions: Vec<Position>,
    sources: Vec<String>,
}

/// A place in the script and the one in a source that it was made from. Lines and columns are counted from 0.
#[derive(Clone, Copy, Debug)]
struct Position {
    line: u32,
    column: u32,
    source: u32,
    source_line: u32,
    source_column: u32,
}

/// Why a source map cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The file cannot be read.
    #[error("cannot read the source map {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than any that the bundler writes for a worker.
    #[error("the source map {} is larger than {} MB", .0.display(), LARGEST / 1024 / 1024)]
    TooLarge(PathBuf),
    /// The file is no source map.
    #[error("{} is no source map: {why}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Mapper {
    /// Reads a source map. Sources below `project`, which is a directory, are named by their path from there, others by
    /// their absolute path.
    ///
    /// # Errors
    /// The file cannot be read, is larger than 64 MB, or is no source map.
    pub fn read(map: &Path, project: &Path) -> Result<Self, MapError> {
        let unreadable = |source| MapError::Read { path: map.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(map).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(MapError::TooLarge(map.to_owned()));
        }
        let folder = std::path::absolute(map).map_err(unreadable)?;
        let folder = folder.parent().unwrap_or(Path::new("/"));
        let project = if project.as_os_str().is_empty() { Path::new(".") } else { project };
        let project = without_dots(&std::path::absolute(project).map_err(unreadable)?);
        Self::decode(&bytes, folder, &project).map_err(|why| MapError::Malformed { path: map.to_owned(), why })
    }

    fn decode(bytes: &[u8], folder: &Path, project: &Path) -> Result<Self, String> {
        bounded(bytes)?;
        let map = SourceMap::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut positions: Vec<Position> = map
            .tokens()
            .map(|token| Position {
                line: token.get_dst_line(),
                column: token.get_dst_col(),
                source: token.get_src_id(),
                source_line: token.get_src_line(),
                source_column: token.get_src_col(),
            })
            .collect();
        positions.sort_by_key(|position| (position.line, position.column));
        let sources = (0..map.get_source_count())
            .map(|source| named(map.get_source(source).unwrap_or_default(), folder, project))
            .collect();
        Ok(Self { positions, sources })
    }

    /// A text in which every position in the script is replaced by the one in a source. What is no such position, or
    /// one that the map does not know, stays as it is.
    pub fn map_text(&self, text: &str) -> String {
        let mut mapped = String::with_capacity(text.len());
        let mut at = 0;
        // Where each name stands next; looked for again only when it has been passed.
        let mut next = NAMES.map(|name| text.find(name));
        for _ in 0..LOOKED_UP {
            let Some(found) = next.into_iter().flatten().min() else { break };
            let (before, rest) = text.split_at(found);
            mapped.push_str(before.get(at..).unwrap_or_default());
            let frame = Frame::parse(rest).filter(|_| !before.chars().next_back().is_some_and(is_part_of_name));
            let source = frame.as_ref().and_then(|frame| self.look_up(frame.line, frame.column));
            let length = match (frame, source) {
                (Some(frame), Some(source)) => {
                    mapped.push_str(&source);
                    frame.length
                }
                _ => {
                    let name = NAMES.into_iter().find(|name| rest.starts_with(name)).unwrap_or_default();
                    mapped.push_str(name);
                    name.len()
                }
            };
            at = found + length;
            for (next, name) in next.iter_mut().zip(NAMES) {
                if next.is_some_and(|next| next < at) {
                    *next = text.get(at..).and_then(|rest| rest.find(name)).map(|further| at + further);
                }
            }
        }
        mapped.push_str(text.get(at..).unwrap_or_default());
        mapped
    }

    /// The source's position for one in the script, all counted from 1.
    fn look_up(&self, line: u32, column: u32) -> Option<String> {
        let (line, column) = (line.checked_sub(1)?, column.checked_sub(1)?);
        let after = self.positions.partition_point(|position| (position.line, position.column) <= (line, column));
        let position = self.positions.get(after.checked_sub(1)?).filter(|position| position.line == line)?;
        let source = self.sources.get(position.source as usize).filter(|source| !source.is_empty())?;
        let one_based = |number: u32| u64::from(number) + 1;
        Some(format!("{source}:{}:{}", one_based(position.source_line), one_based(position.source_column)))
    }
}

/// Sees that decoding a map takes no more memory than a few times its size, and that its numbers have 32 bits.
fn bounded(bytes: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Outline<'a> {
        #[serde(borrow)]
        mappings: Option<std::borrow::Cow<'a, str>>,
        source_root: Option<String>,
    }
    let outline: Outline<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if outline.source_root.is_some_and(|root| root.len() > LONGEST_ROOT) {
        return Err("the root of its sources is too long".to_owned());
    }
    let mappings = outline.mappings.unwrap_or_default();
    let (mut separators, mut digits) = (0_usize, 0_usize);
    for byte in mappings.bytes() {
        separators += usize::from(matches!(byte, b',' | b';'));
        // Of the 64 digits the upper half says that the number goes on.
        let goes_on = matches!(byte, b'g'..=b'z' | b'0'..=b'9' | b'+' | b'/');
        digits = if goes_on { digits + 1 } else { 0 };
        if digits >= DIGITS {
            return Err("a number of its mappings has more than 32 bits".to_owned());
        }
    }
    if separators > POSITIONS { Err("it has too many mappings".to_owned()) } else { Ok(()) }
}

/// What a source is called in a log.
fn named(source: &str, folder: &Path, project: &Path) -> String {
    let path = source.strip_prefix("file://").unwrap_or(source);
    // Anything else with a scheme (RFC 3986) is no file: what a bundler makes up, or a module of the platform. A single
    // letter is a drive.
    let is_scheme =
        |text: &str| text.len() > 1 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if source.is_empty() || path.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) {
        return text::line(source, LONGEST_NAME);
    }
    let path = without_dots(&folder.join(path));
    let shown = path.strip_prefix(project).unwrap_or(&path);
    text::line(&shown.to_string_lossy(), LONGEST_NAME)
}

/// A path without `.` and `..`, found without asking the file system.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// A position in the script, and how much text it took to say it.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    line: u32,
    column: u32,
    length: usize,
}

impl Frame {
    /// The position that a text starts with.
    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = NAMES.iter().find_map(|name| Some((*name, text.strip_prefix(name)?)))?;
        let rest = match rest.strip_prefix(" line ") {
            Some(rest) => number(rest)?.1.strip_prefix(" > eval")?,
            None if name == SCRIPT => rest,
            None => return None,
        };
        let (line, rest) = number(rest.strip_prefix(':')?)?;
        let (column, rest) = number(rest.strip_prefix(':')?)?;
        Some(Self { line, column, length: text.len() - rest.len() })
    }
}

/// The number that a text starts with, and what follows.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Whether a character before `worker.js` makes it the end of another file's name.
fn is_part_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '\\')
}

#[cfg(test)]
mod tests;
