//! A case as a project in a folder of its own.

use std::path::{Path, PathBuf};

use super::case::Case;

/// Lays the project of a case out. Returns its folder and the binding files in it.
pub(super) fn lay_out(case: &Case) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let shared = case.folder.join("../worker.toml");
    let mut files = Vec::new();
    if case.said.workers.is_empty() {
        files.push(worker("w", &case.folder, folder.path(), &shared));
    }
    for name in &case.said.workers {
        files.push(worker(name, &case.folder.join(name), &folder.path().join(name), &shared));
    }
    for (path, text) in &case.said.files {
        write(&folder.path().join(path), text.as_bytes());
    }
    for (path, text) in &case.said.base64_files {
        write(&folder.path().join(path), &from_base64(text));
    }
    (folder, files)
}

/// Makes a worker's project of its sources, and returns its binding file.
fn worker(name: &str, sources: &Path, project: &Path, shared: &Path) -> PathBuf {
    copy(sources, project);
    let mains = ["worker.js", "worker.ts"].into_iter().filter(|main| sources.join(main).is_file()).collect::<Vec<_>>();
    let [main] = mains[..] else { panic!("{} has one worker.js or worker.ts", sources.display()) };
    let own = sources.join("worker.toml");
    let lines = std::fs::read_to_string(if own.is_file() { &own } else { shared }).unwrap();
    let file = project.join("wrangler.toml");
    std::fs::write(&file, format!("name = {name:?}\nmain = {main:?}\n{lines}")).unwrap();
    file
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        match name.to_str() {
            Some("case.json" | "worker.toml") => {}
            _ if from.is_dir() => copy(&from, &to.join(name)),
            _ => drop(std::fs::copy(&from, to.join(name)).unwrap()),
        }
    }
}

fn write(path: &Path, contents: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}

/// The bytes of a base64 text (RFC 4648, section 4).
pub(super) fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = ALPHABET.iter().position(|known| *known == letter).expect("a letter of base64");
        bits = (bits << 6 | value as u32) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
