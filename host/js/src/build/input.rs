//! What a script was made from, and how to see that it has not changed.
//!
//! Besides the sources themselves there are files that decide which sources those are: `package.json` and
//! `tsconfig.json`, from the entry's folder upwards, and what package managers write when they install anything. One
//! that is missing is recorded too, since it counts from the moment it appears; and so are the names in the folders of
//! sources, since `./util` means another file once there is a `util.ts` beside `util.js`.
//!
//! A file whose size and times are as they were is taken to be as it was. Two times are compared, because the one of its
//! content can be set at will (npm gives every file of a package the same), while that of its entry in the file system
//! cannot. Where either differs the content is hashed. A file that was touched while the bundler was at work, or so
//! shortly before that its clock cannot tell, might hold something else than what the bundler read; it is recorded as
//! unknown and makes the next build run.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonc_parser::ast::Value;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::manifest::sha256;
use crate::embedded::hex;

/// Files of a folder, or of one above it, that decide which sources a name stands for and how they are read.
const DECIDING: [&str; 11] = [
    "package.json",
    TSCONFIG,
    "jsconfig.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "bun.lockb",
    "node_modules/.package-lock.json",
    "node_modules/.modules.yaml",
    "node_modules/.yarn-integrity",
];
const TSCONFIG: &str = "tsconfig.json";
/// Extensions that an import may leave out.
const LEFT_OUT: [&str; 9] = ["ts", "tsx", "mts", "cts", "js", "jsx", "mjs", "cjs", "json"];
/// How many folders above the entry are looked at, and how many configurations one can extend.
const DEEPEST: usize = 32;
const EXTENDED: usize = 16;
/// The largest configuration that is read for what it extends.
const LARGEST_CONFIG: u64 = 1024 * 1024;
/// What a file system's clock may lag behind: a few of the kernel's ticks, or its own unit where that is a second or two.
const FINE: Duration = Duration::from_millis(50);
const COARSE: Duration = Duration::from_secs(2);

/// Something that a script depends on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    state: State,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is no such file.
    Missing,
    /// A file; without a hash where it is not known what the bundler read.
    File { stamp: Stamp, sha256: Option<String> },
    /// A folder, by the names in it.
    Names(String),
}

/// A file's size and times, in nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    modified: u64,
    changed: u64,
}

impl Stamp {
    /// None where there is no file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
        let modified = metadata.modified().map_or(0, nanoseconds);
        Some(Self { bytes: metadata.len(), modified, changed: changed(&metadata).unwrap_or(modified) })
    }

    /// Whether whatever is done to the file after `time` gives it another stamp.
    fn settled_before(&self, time: SystemTime) -> bool {
        let last = self.modified.max(self.changed);
        let lag = if last.is_multiple_of(1_000_000_000) { COARSE } else { FINE };
        last.saturating_add(lag.as_nanos() as u64) < nanoseconds(time)
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(metadata.ctime_nsec()).ok()?)
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> Option<u64> {
    None
}

/// Records inputs after a bundler that was started at a certain time has read them.
pub(super) struct Recorder {
    started: SystemTime,
}

impl Recorder {
    pub(super) fn start(now: SystemTime) -> Self {
        Self { started: now }
    }

    /// The state of the sources, in their order, then of what surrounds them and of their folders.
    pub(super) fn record(&self, sources: &[PathBuf], surroundings: &BTreeSet<PathBuf>) -> Vec<Input> {
        let folders: BTreeSet<&Path> = sources
            .iter()
            .filter_map(|source| source.parent())
            .filter(|folder| !folder.iter().any(|part| part == "node_modules"))
            .collect();
        let files = sources.iter().chain(surroundings).map(|path| Input { path: path.clone(), state: self.file(path) });
        let folders = folders.into_iter().map(|path| Input { path: path.to_owned(), state: names(path) });
        files.chain(folders).collect()
    }

    fn file(&self, path: &Path) -> State {
        let Some(stamp) = Stamp::of(path) else { return State::Missing };
        let known = stamp.settled_before(self.started);
        let sha256 = known.then(|| sha256(path).ok()).flatten().map(|(sha256, _)| sha256);
        State::File { stamp, sha256 }
    }
}

/// Whether all inputs are as they were. Where one has another stamp and the same content, its stamp is brought up to
/// date and the answer is `Some(true)`.
pub(super) fn hold(inputs: &mut [Input]) -> Option<bool> {
    let now = SystemTime::now();
    let mut moved = false;
    for input in inputs {
        match &mut input.state {
            State::Missing if Stamp::of(&input.path).is_none() => {}
            State::Names(before) if matches!(names(&input.path), State::Names(now) if now == *before) => {}
            State::File { stamp, sha256: Some(before) } => {
                let found = Stamp::of(&input.path)?;
                if found != *stamp {
                    if found.bytes != stamp.bytes || sha256(&input.path).ok()?.0 != *before {
                        return None;
                    }
                    if found.settled_before(now) {
                        *stamp = found;
                        moved = true;
                    }
                }
            }
            _ => return None,
        }
    }
    Some(moved)
}

/// The names in a folder among which an import without an extension chooses. A folder that cannot be read has none.
fn names(folder: &Path) -> State {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        let is_module = extension.is_some_and(|extension| LEFT_OUT.contains(&extension));
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        // A worker that was built in the folder of its sources is none of them.
        let is_output = name == super::MANIFEST;
        if !is_hidden && !is_output && (is_module || entry.file_type().is_ok_and(|kind| !kind.is_file())) {
            names.insert(name);
        }
    }
    let mut hash = Sha256::new();
    for name in names {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_encoded_bytes());
    }
    State::Names(hex(&hash.finalize()))
}

/// Files that decide which sources a script is made from, whether they exist or not.
pub(super) fn surroundings(entry: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for folder in entry.ancestors().skip(1).take(DEEPEST) {
        found.extend(DECIDING.map(|name| folder.join(name)));
        extended(&folder.join(TSCONFIG), &mut found);
    }
    found
}

/// Adds the files that a TypeScript configuration extends, and what these extend. Those of packages change with the
/// package manager's own files.
fn extended(config: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut waiting = vec![config.to_owned()];
    let mut seen = 0;
    while let Some(config) = waiting.pop() {
        seen += 1;
        if seen > EXTENDED {
            return;
        }
        let folder = config.parent().unwrap_or(Path::new("")).to_owned();
        for name in extends(&config) {
            if !name.starts_with('.') && !Path::new(&name).is_absolute() {
                continue;
            }
            for name in [name.clone(), format!("{name}.json")] {
                let path = folder.join(name);
                if found.insert(path.clone()) {
                    waiting.push(path);
                }
            }
        }
    }
}

/// What a TypeScript configuration names as `extends`: a file, or several.
fn extends(config: &Path) -> Vec<String> {
    let small = fs::metadata(config).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LARGEST_CONFIG);
    let text = if small { fs::read_to_string(config).unwrap_or_default() } else { String::new() };
    let Ok(parsed) = parse_to_ast(&text, &CollectOptions::default(), &ParseOptions::default()) else {
        return Vec::new();
    };
    let Some(Value::Object(root)) = parsed.value else { return Vec::new() };
    let text = |value: &Value<'_>| match value {
        Value::StringLit(name) => Some(name.value.clone().into_owned()),
        _ => None,
    };
    match root.get("extends").map(|property| &property.value) {
        Some(Value::Array(names)) => names.elements.iter().filter_map(text).take(EXTENDED).collect(),
        Some(name) => text(name).into_iter().collect(),
        None => Vec::new(),
    }
}
