//! What was acknowledged survives `kill -9` at any instant.
//!
//! A round starts this very program as a writer, which changes a store at random and says on its standard output what it
//! is about to do and that it was told it is done; kills it after a time that chance chose; and looks whether the store
//! is sound and holds what was acknowledged, with the change that was under way there whole or not at all. Rounds go on
//! in one directory, so that what a crash left is what the next writer opens.
//!
//! `HOST_KILL_ROUNDS` says how many rounds each mode has; `cargo xtask test kill` has 200. A mode is a kind of store:
//! what writes to it, and what looks at it afterwards.

#![allow(missing_docs, clippy::unwrap_used)]

mod batches;
mod logs;
mod vectors;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use host_inference::engine::{Engine, EngineConfig, LocalModel, LocalSource};

/// A kind of store to write to while the process is killed.
struct Mode {
    name: &'static str,
    /// Writes until the process ends.
    write: fn(&Path, u64, &Report),
    /// A model of the store, which follows what writers said.
    model: fn() -> Box<dyn Model>,
}

/// What a store must hold.
trait Model {
    /// A writer is about to do this.
    fn tried(&mut self, change: &str);
    /// A writer was told that this is done.
    fn acknowledged(&mut self, change: &str);
    /// Compares the store with the model, and takes over what became of the changes that were under way.
    fn check(&mut self, directory: &Path) -> Result<(), String>;
    /// Looks at what must come of it in the end, after the last round.
    fn finish(&mut self, _directory: &Path) -> Result<(), String> {
        Ok(())
    }
}

const MODES: &[Mode] = &[
    Mode { name: "vectors", write: vectors::write, model: || Box::new(vectors::Vectors::default()) },
    Mode { name: "logs", write: logs::write, model: || Box::new(logs::Logs::default()) },
    Mode { name: "batches", write: batches::write, model: || Box::new(batches::Queued::default()) },
];

/// An engine whose model `parrot` answers with `reply`.
fn engine(directory: &Path, reply: &str) -> Engine {
    let parrot = LocalModel::new("parrot", LocalSource::Mock(serde_json::json!({ "reply": reply })));
    Engine::new(EngineConfig { models: vec![parrot], ..EngineConfig::new(directory.join("models")) }).unwrap()
}

/// Where a writer says what it does; several threads may.
struct Report(Mutex<std::io::Stdout>);

impl Report {
    fn line(&self, word: &str, change: &str) {
        let mut out = self.0.lock().unwrap();
        // One write of a short line to a pipe is all or nothing.
        out.write_all(format!("{word} {change}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }

    /// Says that `change`, a word without spaces, is about to be done.
    fn trying(&self, change: &str) {
        self.line("try", change);
    }

    /// Says that `change` was acknowledged.
    fn done(&self, change: &str) {
        self.line("done", change);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a writer's arguments begin with. A test runner's filters never do.
const WRITE: &str = "--write-until-killed";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, mode, directory, seed] = arguments.as_slice()
        && word == WRITE
    {
        let mode = MODES.iter().find(|known| known.name == mode).unwrap();
        return (mode.write)(Path::new(directory), seed.parse().unwrap(), &Report(Mutex::new(std::io::stdout())));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let rounds = std::env::var("HOST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    for mode in MODES {
        if wanted.is_empty() || wanted.iter().any(|filter| format!("kill_{}", mode.name).contains(filter.as_str())) {
            let changes = survive(mode, rounds);
            println!("kill_{}: {changes} acknowledged changes survived {rounds} kills", mode.name);
        }
    }
}

/// Runs the rounds of a mode: how many changes were acknowledged.
fn survive(mode: &Mode, rounds: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let mut model = (mode.model)();
    let mut random = Random(std::process::id().into());
    let mut changes = 0;
    for round in 0..rounds {
        let seed = random.next();
        let after = Duration::from_micros(random.below(150_000));
        changes += write_and_kill(mode, folder.path(), seed, after, model.as_mut());
        let sound = host_state::backup::check(folder.path()).unwrap();
        for checked in sound {
            assert!(checked.fault.is_none(), "round {round}, seed {seed}: {checked:?}");
        }
        if let Err(fault) = model.check(folder.path()) {
            panic!("{}, round {round}, seed {seed}, killed after {after:?}: {fault}", mode.name);
        }
    }
    if let Err(fault) = model.finish(folder.path()) {
        panic!("{}, after the last round: {fault}", mode.name);
    }
    changes
}

/// Starts a writer, kills it some time after its first word, and tells the model what it said.
fn write_and_kill(mode: &Mode, directory: &Path, seed: u64, after: Duration, model: &mut dyn Model) -> usize {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args([WRITE, mode.name])
        .arg(directory)
        .arg(seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut line = String::new();
        // A line that was cut off said nothing.
        while lines.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
            said.push(std::mem::take(&mut line));
        }
        said
    });
    std::thread::sleep(after);
    // SIGKILL.
    writer.kill().unwrap();
    writer.wait().unwrap();
    let said = reader.join().unwrap();
    let mut changes = 0;
    for line in &said {
        match line.trim_end().split_once(' ') {
            Some(("try", change)) => model.tried(change),
            Some(("done", change)) => {
                model.acknowledged(change);
                changes += 1;
            }
            _ => panic!("a writer said {line:?}"),
        }
    }
    changes
}
