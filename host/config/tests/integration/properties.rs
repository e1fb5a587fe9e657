//! Whatever a file holds, loading it ends in a project or in faults; and the two syntaxes agree.

use std::path::Path;

use host_config::{Faults, LoadOptions, Project, load};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A directory with a component, in which files are written and loaded.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hello.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        for name in ["cases", "public"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Scratch(directory)
    }

    fn load(&self, name: &str, bytes: &[u8]) -> Result<Project, Faults> {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        let directory = self.0.path().to_owned();
        load(&LoadOptions { directory, files: vec![name.into()], ..LoadOptions::default() })
    }

    /// Loads and looks at every diagnostic's place.
    fn survives(&self, name: &str, bytes: &[u8]) {
        let diagnostics = match self.load(name, bytes) {
            Ok(project) => {
                assert!(!project.workers.is_empty());
                project.warnings
            }
            Err(faults) => {
                assert!(!faults.0.is_empty());
                faults.0
            }
        };
        let lines = String::from_utf8_lossy(bytes).split('\n').count();
        for diagnostic in diagnostics {
            assert!(diagnostic.line >= 1 && diagnostic.line <= lines && diagnostic.column >= 1);
            let text = diagnostic.to_string();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

fn example(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)).unwrap()
}

/// A change to a file: bytes at a place (as a share of its length) are replaced.
fn mutation() -> impl Strategy<Value = (f64, usize, Vec<u8>)> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..6),
        proptest::sample::select(vec![
            "[",
            "]",
            "{",
            "}",
            "\"",
            "'",
            "=",
            ".",
            "\n",
            ",",
            "#",
            "//",
            "/*",
            "\\",
            "\\u",
            "1e999",
            "-",
            "[[",
            "'''",
            "null",
            "2025-01-01",
            "\u{fc}",
            "\r",
            "\t",
            "\0"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    (0.0..1.0f64, 0usize..20, bytes)
}

fn mutated(mut bytes: Vec<u8>, changes: Vec<(f64, usize, Vec<u8>)>) -> Vec<u8> {
    for (place, length, new) in changes {
        let start = ((bytes.len() as f64) * place) as usize;
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, new);
    }
    bytes
}

/// Values as a binding file may hold them, right and wrong.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..100_000).prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        proptest::sample::select(vec![
            "AI",
            "KV",
            "hello.wasm",
            "*.example.com/*",
            "localhost",
            "auto",
            "0 9 * * MON",
            "@cf/a/b",
            "mock",
            "text-generation",
            "10.0.0.0/8",
            "2025-10-08",
            "public",
            "/api/*",
            "!/api/*"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key(), inner, 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = vec![
        "name",
        "main",
        "route",
        "routes",
        "pattern",
        "vars",
        "limits",
        "cpu_ms",
        "ai",
        "binding",
        "models",
        "loras",
        "aliases",
        "path",
        "backend",
        "env",
        "staging",
        "workers",
        "dev",
        "port",
        "ip",
        "kv_namespaces",
        "queues",
        "producers",
        "triggers",
        "crons",
        "outbound",
        "allow_private",
        "assets",
        "directory",
        "run_worker_first",
        "base_path",
        "services",
        "service",
        "account_id",
        "observability",
        "compatibility_date",
    ];
    prop_oneof![4 => proptest::sample::select(known).prop_map(str::to_owned), 1 => "[a-z]{1,4}"]
}

/// A file that is often right: a worker with some keys replaced by anything.
fn file() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(key(), value(), 0..5).prop_map(|entries| {
        let mut file = json!({
            "name": "a", "main": "hello.wasm", "vars": { "K": "v", "N": 1, "F": 1.5 },
            "ai": { "binding": "AI" }, "routes": ["example.com/*"]
        });
        file.as_object_mut().unwrap().extend(entries);
        file
    })
}

/// What is comparable of a result: the project, or the messages without their places.
fn outcome(result: Result<Project, Faults>) -> Result<Value, Vec<String>> {
    match result {
        Ok(project) => {
            let mut value = serde_json::to_value(&project).unwrap();
            value.as_object_mut().unwrap().retain(|key, _| key != "warnings" && key != "files");
            for worker in value["workers"].as_array_mut().unwrap() {
                worker.as_object_mut().unwrap().remove("file");
            }
            Ok(value)
        }
        Err(faults) => {
            let plain = |text: String| {
                text.replace("an array of objects", "an array of tables (`[[…]]`)").replace("an object", "a table")
            };
            let message = |text: &str| plain(text.split(" in line ").next().unwrap_or_default().to_owned());
            let mut messages: Vec<String> = faults.0.iter().map(|fault| message(&fault.message)).collect();
            messages.sort();
            Err(messages)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        let scratch = Scratch::new();
        for name in ["wrangler.toml", "wrangler.jsonc"] {
            scratch.survives(name, &bytes);
            scratch.survives(name, text.as_bytes());
        }
    }

    #[test]
    fn mutations_of_good_files_never_panic(changes in proptest::collection::vec(mutation(), 1..6)) {
        let scratch = Scratch::new();
        for name in ["all-keys.toml", "all-keys.jsonc"] {
            scratch.survives(name, &mutated(example(name), changes.clone()));
        }
    }

    #[test]
    fn secrets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[A=\"'`\\\\n#\\n \r$x]{0,60}") {
        let scratch = Scratch::new();
        for content in [bytes.as_slice(), text.as_bytes()] {
            std::fs::write(scratch.0.path().join(".dev.vars"), content).unwrap();
            if let Ok(project) = scratch.load("wrangler.toml", b"name = 'a'\nmain = 'hello.wasm'\n") {
                prop_assert_eq!(project.workers.len(), 1);
            }
        }
    }

    #[test]
    fn toml_and_jsonc_agree(file in file()) {
        let scratch = Scratch::new();
        let toml = scratch.load("wrangler.toml", toml::to_string(&file).unwrap().as_bytes());
        let jsonc = scratch.load("wrangler.jsonc", serde_json::to_string_pretty(&file).unwrap().as_bytes());
        prop_assert_eq!(outcome(toml), outcome(jsonc));
    }
}
