//! A case is a folder of `cases/` with binding files. `options.json` may say how they are loaded: `files`, `env`, `vars`
//! (pairs). What must come of it is in `expected.txt` (every fault, as it is printed) or `expected.json` (the project).
//!
//! After a change that is meant, run with `HOST_CONFIG_BLESS=1` and read the difference.

use std::path::{Path, PathBuf};

use host_config::{LoadOptions, Project, load};

fn options(case: &Path) -> LoadOptions {
    let mut options = LoadOptions { directory: case.to_owned(), ..LoadOptions::default() };
    let Ok(text) = std::fs::read_to_string(case.join("options.json")) else { return options };
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in value.as_object().unwrap() {
        match key.as_str() {
            "files" => options.files = serde_json::from_value(value.clone()).unwrap(),
            "env" => options.env = serde_json::from_value(value.clone()).unwrap(),
            "vars" => options.vars = serde_json::from_value(value.clone()).unwrap(),
            other => panic!("{}: unknown option {other}", case.display()),
        }
    }
    options
}

/// Paths of this machine become `[case]` and `[tests]`; what is as by default is left out.
fn dump(project: &Project) -> String {
    let mut value = serde_json::to_value(project).unwrap();
    let default_limits = serde_json::to_value(host_config::Limits::default()).unwrap();
    let default_outbound = serde_json::to_value(host_config::Outbound::default()).unwrap();
    for worker in value["workers"].as_array_mut().unwrap() {
        let worker = worker.as_object_mut().unwrap();
        worker.retain(|key, value| match key.as_str() {
            "limits" => *value != default_limits,
            "outbound" => *value != default_outbound,
            _ => !is_empty(value),
        });
    }
    value["ai"].as_object_mut().unwrap().retain(|_, value| !is_empty(value));
    value["warnings"] = project.warnings.iter().map(|warning| warning.to_string()).collect();
    serde_json::to_string_pretty(&value).unwrap()
}

fn is_empty(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Array(values) => values.is_empty(),
        serde_json::Value::Object(values) => values.is_empty(),
        _ => false,
    }
}

/// The file with what is expected, and what came.
fn run(case: &Path) -> (PathBuf, String) {
    let (name, text) = match load(&options(case)) {
        Ok(project) => ("expected.json", dump(&project)),
        Err(faults) => ("expected.txt", faults.to_string()),
    };
    let tests = case.parent().unwrap().parent().unwrap().display().to_string();
    let text = text.replace(&case.display().to_string(), "[case]").replace(&tests, "[tests]");
    (case.join(name), text + "\n")
}

#[test]
fn every_case_gives_what_it_says() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 30, "only {} cases", folders.len());
    let mut wrong = Vec::new();
    for case in &folders {
        let (file, found) = run(case);
        let other = if file.ends_with("expected.txt") { "expected.json" } else { "expected.txt" };
        if std::env::var_os("HOST_CONFIG_BLESS").is_some() {
            std::fs::write(&file, &found).unwrap();
            std::fs::remove_file(case.join(other)).ok();
            continue;
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if expected != found || case.join(other).exists() {
            wrong.push(format!("--- {}\nexpected:\n{expected}\nfound:\n{found}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_case_in_toml_and_in_json_has_its_faults_at_the_same_keys() {
    // `faults-everywhere` and its twin hold the same wrong values; messages and order agree but for what the syntaxes
    // call a table.
    let messages = |name: &str| -> Vec<String> {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
        let faults = load(&options(&case)).unwrap_err();
        let plain = |text: &str| {
            text.replace("an object", "a table").replace("an array of objects", "an array of tables (`[[…]]`)")
        };
        faults.0.iter().map(|fault| plain(&fault.message)).collect()
    };
    let toml = messages("faults-everywhere");
    assert!(toml.len() > 10);
    assert_eq!(toml, messages("faults-everywhere-json"));
}
