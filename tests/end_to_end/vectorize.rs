//! Vector indexes: as a worker in Rust calls them, and from the command line beside a running host.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{FLAVOURS, Host, command, guest};

const BINDINGS: &str = "[[vectorize]]\nbinding = \"V\"\nindex_name = \"v\"\ndimensions = 3\nmetric = \"cosine\"\n\
                        [[vectorize]]\nbinding = \"ABSENT\"\nindex_name = \"absent\"\n";

#[test]
fn a_worker_in_rust_calls_every_method() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("vectorize", flavour), BINDINGS);
        let seen = host.get("/methods").json();
        assert_eq!(seen["mutations"], json!([36, 36]), "{flavour}: {seen}");
        let query = &seen["query"];
        assert_eq!((&query[0]["id"], &query[1]["id"]), (&json!("a"), &json!("b")), "{flavour}");
        assert_eq!(query[0]["values"], json!([1.0, 0.0, 0.0]));
        assert_eq!((&query[0]["metadata"]["lang"], &query[0]["namespace"]), (&json!("en"), &json!("one")));
        assert_eq!((&seen["namespace"], &seen["byId"]), (&json!(["a"]), &json!(["c"])));
        assert_eq!(seen["got"], json!([{ "id": "b", "values": [0.5, 0.5, 0.0] }]));
        assert_eq!((&seen["count"], &seen["dimensions"], &seen["processed"]), (&json!(2), &json!(3), &json!(true)));
    }
}

#[test]
fn a_worker_in_rust_gets_the_documented_errors() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("vectorize", flavour), BINDINGS);
        let seen = host.get("/errors").json();
        for (case, code, part) in [
            (
                "short",
                40012,
                "VECTOR_INSERT_ERROR (code = 40012): invalid vector for id=\"x\", expected 3 dimensions, and got 1",
            ),
            ("nan", 40023, "VECTOR_UPSERT_ERROR (code = 40023): failed to parse vectors: vectors[0].values[1]"),
            (
                "query",
                40006,
                "VECTOR_QUERY_ERROR (code = 40006): invalid query vector, expected 3 dimensions, and got 1",
            ),
            ("many", 40025, "VECTOR_QUERY_ERROR (code = 40025)"),
            ("filter", 40026, "\"$near\""),
            ("ids", 40007, "VECTOR_GET_ERROR (code = 40007): too many ids in payload; max id count is 20, got 21"),
            ("absent", 0, "host vectorize create absent --dimensions=384 --metric=cosine"),
        ] {
            assert_eq!(seen[case]["code"], json!(code), "{flavour} {case}: {seen}");
            let message = seen[case]["message"].as_str().unwrap();
            assert!(message.contains(part), "{flavour} {case}: {message}");
        }
        let missing = host.get("/missing").text();
        assert!(missing.contains("[[vectorize]]") && missing.contains("OTHER"), "{flavour}: {missing}");
        host.wait_for_log("host vectorize create absent");
    }
}

fn run(state: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = command();
    command.arg("vectorize").args(arguments).arg("--persist-to").arg(state);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails before it reads closes its end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn printed(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn indexes_are_managed_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], input: &str| run(folder.path(), arguments, input);
    let made = printed(&run(&["create", "notes", "--dimensions=2", "--metric=euclidean", "--json"], ""));
    assert_eq!(made["config"], json!({ "dimensions": 2, "metric": "euclidean" }));
    assert!(!run(&["create", "notes", "--dimensions=2", "--metric=cosine"], "").status.success());
    let lines = "{\"id\":\"a\",\"values\":[0,1],\"metadata\":{\"k\":1}}\n\n{\"id\":\"b\",\"values\":[0,-2]}\n";
    let sent = printed(&run(&["insert", "notes", "--file=-", "--batch-size=1", "--json"], lines));
    assert_eq!(sent["count"], 2);
    printed(&run(&["create-metadata-index", "notes", "--property-name=k", "--type=number", "--json"], ""));
    let found = printed(&run(&["query", "notes", "--vector", "0", "-1.5", "--json"], ""));
    assert_eq!((&found["matches"][0]["id"], &found["matches"][0]["score"]), (&json!("b"), &json!(0.5)));
    let filter = ["query", "notes", "--vector-id=b", "--filter={\"k\":1}", "--return-metadata=all", "--json"];
    let found = printed(&run(&filter, ""));
    assert_eq!(found["matches"], json!([{ "id": "a", "score": 3.0, "metadata": { "k": 1 } }]));
    let exported = run(&["export", "notes"], "");
    let exported = String::from_utf8(exported.stdout).unwrap();
    assert_eq!(exported.lines().count(), 2);
    printed(&run(&["create", "copy", "--dimensions=2", "--metric=euclidean", "--json"], ""));
    assert_eq!(printed(&run(&["upsert", "copy", "--file=-", "--json"], &exported))["count"], 2);
    assert_eq!(String::from_utf8(run(&["export", "copy"], "").stdout).unwrap(), exported);
    let wrong =
        run(&["insert", "notes", "--file=-"], "{\"id\":\"c\",\"values\":[1,2]}\n{\"id\":\"d\",\"values\":[1]}\n");
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(message.contains("lines 1 to 2") && message.contains("id=\"d\""), "{message}");
    let broken = run(&["insert", "notes", "--file=-"], "{\"id\":\n");
    assert!(String::from_utf8(broken.stderr).unwrap().contains("line 1 of -"));
    printed(&run(&["delete-vectors", "notes", "--ids", "a", "--json"], ""));
    assert_eq!(printed(&run(&["info", "notes", "--json"], ""))["vectorCount"], 1);
    assert!(!run(&["delete", "notes"], "").status.success(), "nobody could be asked");
    assert!(run(&["delete", "notes", "--force"], "").status.success());
    assert_eq!(printed(&run(&["list", "--json"], ""))[0]["name"], "copy");
    assert!(String::from_utf8(run(&["info", "notes"], "").stderr).unwrap().contains("vectorize create notes"));
}

/// The same as the path `/filtered` of the guest in Rust.
const FILTERED: &str = r#"export default {
  async fetch(request, { V }) {
    const vector = (id, x, lang, year) => ({ id, values: [x, 1, 0], metadata: { lang, other: 1, deep: { year } } });
    await V.upsert([vector("a", 3, "en", 2020), vector("b", 2, "de", 2021), vector("c", 1, "fr", 2022)]);
    const { matches } = await V.query([1, 0, 0], { filter: await request.json(), returnMetadata: "indexed" });
    return Response.json(matches.map(({ id, metadata }) => [id, metadata]));
  },
};"#;

#[test]
fn workers_filter_by_metadata_indexes() {
    let state = tempfile::tempdir().unwrap();
    printed(&run(state.path(), &["create", "v", "--dimensions=3", "--metric=cosine", "--json"], ""));
    for (name, kind) in [("lang", "string"), ("deep.year", "number")] {
        let (name, kind) = (format!("--property-name={name}"), format!("--type={kind}"));
        printed(&run(state.path(), &["create-metadata-index", "v", &name, &kind, "--json"], ""));
    }
    let script = state.path().join("worker.js");
    std::fs::write(&script, FILTERED).unwrap();
    for main in [guest("vectorize", "p2"), guest("vectorize", "p3"), script] {
        let main = main.display().to_string();
        let config = format!("name = \"w\"\nmain = {main:?}\n[[vectorize]]\nbinding = \"V\"\nindex_name = \"v\"\n");
        let host = Host::start(&config, &["--persist-to", &state.path().display().to_string()]);
        for (filter, expected) in [
            (json!({ "lang": "en" }), &["a"][..]),
            (json!({ "lang": { "$eq": "de" } }), &["b"]),
            (json!({ "lang": { "$ne": "en" } }), &["b", "c"]),
            (json!({ "lang": { "$in": ["en", "fr"] } }), &["a", "c"]),
            (json!({ "lang": { "$nin": ["en", "fr"] } }), &["b"]),
            (json!({ "deep.year": { "$lt": 2021 } }), &["a"]),
            (json!({ "deep.year": { "$lte": 2021 } }), &["a", "b"]),
            (json!({ "deep.year": { "$gt": 2021 } }), &["c"]),
            (json!({ "deep.year": { "$gte": 2021 }, "lang": { "$ne": "fr" } }), &["b"]),
            (json!({ "deep.year": { "$gt": 2022 } }), &[]),
        ] {
            let found = host.post("/filtered", &filter).json();
            let ids: Vec<&str> = found.as_array().unwrap().iter().map(|found| found[0].as_str().unwrap()).collect();
            assert_eq!(ids, expected, "{main} {filter}");
        }
        let found = host.post("/filtered", &json!({ "lang": "en" })).json();
        assert_eq!(found, json!([["a", { "lang": "en", "deep": { "year": 2020 } }]]), "{main}");
    }
}

#[test]
fn a_running_host_finds_what_the_command_line_inserts() {
    let host = Host::worker(&guest("vectorize", "p2"), BINDINGS);
    assert_eq!(host.get("/methods").json()["count"], 2);
    let state = host.folder().join(".host/state");
    let sent = run(&state, &["insert", "v", "--file=-", "--json"], "{\"id\":\"d\",\"values\":[9,9,9]}\n");
    assert_eq!(printed(&sent)["count"], 1);
    // The first of the methods finds `a` gone and adds it again.
    assert_eq!(host.get("/methods").json()["count"], 3);
    assert!(run(&state, &["create", "absent", "--dimensions=1", "--metric=cosine"], "").status.success());
    assert_eq!(host.get("/errors").json()["absent"], Value::Null);
}

fn state(folder: &Path, arguments: &[&str]) -> Output {
    command().arg("state").args(arguments).arg("--persist-to").arg(folder).output().unwrap()
}

#[test]
fn the_state_is_backed_up_while_the_host_serves_and_restored() {
    let host = Host::worker(&guest("vectorize", "p2"), BINDINGS);
    assert_eq!(host.get("/methods").json()["count"], 2);
    let lives = host.folder().join(".host/state");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("backup");
    let backed = state(&lives, &["backup", place.to_str().unwrap()]);
    assert!(backed.status.success(), "{}", String::from_utf8_lossy(&backed.stderr));
    assert!(String::from_utf8_lossy(&backed.stdout).contains("vectorize/v"));
    let restored = folder.path().join("restored");
    assert!(state(&restored, &["restore", place.to_str().unwrap()]).status.success());
    assert_eq!(printed(&run(&restored, &["info", "v", "--json"], ""))["vectorCount"], 2);
    let again = state(&restored, &["restore", place.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(state(&restored, &["restore", place.to_str().unwrap(), "--force"]).status.success());
    let checked = state(&restored, &["check", "--json"]);
    assert_eq!(printed(&checked)["ok"], true);
    let file = restored.join("vectorize/v.sqlite3");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4096..4200].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&file, bytes).unwrap();
    let checked = state(&restored, &["check", "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(
        said["stores"][0]["path"].as_str().unwrap().ends_with("v.sqlite3") && said["stores"][0]["fault"].is_string()
    );
}
