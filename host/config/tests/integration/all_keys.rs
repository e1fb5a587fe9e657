//! The example with every key loads, in both syntaxes, and lacks no key.

use std::path::Path;

use host_config::schema::{Section, Takes};
use host_config::{LoadOptions, Project, keys, load};

fn example(name: &str, env: Option<&str>) -> Project {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let options =
        LoadOptions { directory, files: vec![name.into()], env: env.map(str::to_owned), ..LoadOptions::default() };
    load(&options).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The project as JSON, without what names the file it came from.
fn dump(project: &Project) -> serde_json::Value {
    let mut value = serde_json::to_value(project).unwrap();
    let object = value.as_object_mut().unwrap();
    object.remove("warnings");
    object.remove("files");
    for worker in object["workers"].as_array_mut().unwrap() {
        worker.as_object_mut().unwrap().remove("file");
    }
    value
}

#[test]
fn both_syntaxes_say_the_same() {
    for env in [None, Some("staging")] {
        assert_eq!(dump(&example("all-keys.toml", env)), dump(&example("all-keys.jsonc", env)));
    }
}

#[test]
fn both_syntaxes_warn_of_the_same() {
    let messages = |name| -> Vec<String> {
        example(name, Some("staging")).warnings.into_iter().map(|warning| warning.message).collect()
    };
    let (mut toml, mut jsonc) = (messages("all-keys.toml"), messages("all-keys.jsonc"));
    toml.sort();
    jsonc.sort();
    assert!(!toml.is_empty());
    assert_eq!(toml, jsonc);
}

#[test]
fn the_example_has_every_key() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let text = std::fs::read_to_string(directory.join("all-keys.toml")).unwrap();
    let value: toml::Value = toml::from_str(&text).unwrap();
    let mut absent = Vec::new();
    for key in keys::ROOT.all() {
        look(&value, key.name, key.takes, key.name, &mut absent);
    }
    // `route` excludes `routes`: it stands in the environment.
    assert_eq!(absent, ["route"]);
    let staging = &value["env"]["staging"];
    assert!(staging.get("route").is_some());
    assert!(keys::ROOT.all().all(|key| key.doc.len() > 10), "every key is explained");
}

/// Adds to `absent` what a value lacks of the keys it could have. Tables of one array may share the keys among them.
fn look(parent: &toml::Value, name: &str, takes: Takes, path: &str, absent: &mut Vec<String>) {
    let Some(value) = parent.get(name) else {
        absent.push(path.to_owned());
        return;
    };
    let section = match takes {
        Takes::Table(section)
        | Takes::Tables(section)
        | Takes::TextOrTable(section)
        | Takes::TextsOrTables(section) => section,
        _ => return,
    };
    let is_workers = std::ptr::eq::<Section>(section, &keys::ENTRY);
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    // The keys of a `[[workers]]` entry are those of the top level, which are all there.
    for key in section.all().filter(|_| !is_workers) {
        let path = format!("{path}.{}", key.name);
        match values.iter().find(|value| value.get(key.name).is_some()) {
            Some(value) => look(value, key.name, key.takes, &path, absent),
            None => absent.push(path),
        }
    }
}
