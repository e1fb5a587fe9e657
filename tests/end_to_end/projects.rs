//! `host new` and `host build`: what is made builds, runs and passes its own tests, and what cannot be made leaves
//! nothing.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Host, PATIENCE, command, workspace};

/// Templates that are scripts, as `--template` and `--lang` take them.
const SCRIPTS: [(&str, &str); 7] = [
    ("chat", "ts"),
    ("chat", "js"),
    ("rag", "ts"),
    ("draw", "ts"),
    ("transcribe", "ts"),
    ("hello", "ts"),
    ("hello", "js"),
];

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command().current_dir(folder).args(arguments).output().unwrap()
}

/// A run that has to succeed: what it prints on stdout.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

/// A run that has to be refused: what it prints on stderr.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {message}");
    message
}

/// What lies in a folder, hidden files too.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut entries: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    entries.sort();
    entries
}

/// A new project `demo` in a folder of its own.
fn project(template: &str, lang: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let out = printed(folder.path(), &["new", "demo", "--template", template, "--lang", lang]);
    assert!(out.contains("cd demo\n") && out.contains("host dev") && out.contains("curl "), "{out}");
    assert_eq!(entries(folder.path()), ["demo"]);
    folder
}

/// Serves the project `demo` of a folder.
fn serve(folder: &Path) -> Host {
    let file = folder.join("demo/wrangler.toml").display().to_string();
    Host::start("", &["-c", &file])
}

/// The events of a stream that ended as it should.
fn events(text: &str) -> Vec<&str> {
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"), "{text}");
    events
}

#[test]
fn a_new_chat_answers_and_streams() {
    for lang in ["ts", "js"] {
        let folder = project("chat", lang);
        let host = serve(folder.path());
        let whole = host.get("/?q=What+is+the+capital+of+France%3F");
        assert_eq!(whole.status, 200, "{lang}: {}", whole.text());
        let answer = whole.json();
        assert!(answer["response"].as_str().is_some_and(|text| !text.trim().is_empty()), "{lang}: {answer}");
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0), "{lang}: {answer}");
        let streamed = host.get("/?q=What+is+the+capital+of+France%3F&stream");
        assert_eq!(streamed.header("content-type"), Some("text/event-stream"), "{lang}");
        assert!(events(&streamed.text()).len() > 2, "{lang}: {}", streamed.text());
        assert_eq!(host.get("/").status, 400, "{lang}");
    }
}

#[test]
fn a_new_rag_answers_from_its_documents() {
    let folder = project("rag", "ts");
    let host = serve(folder.path());
    let documents = std::fs::read(folder.path().join("demo/documents.json")).unwrap();
    let queued = host.send("POST", "/documents", &[], &documents).read();
    assert_eq!(queued.status, 202, "{}", queued.text());
    let (passages, start) = (&queued.json()["passages"], Instant::now());
    while host.get("/status").json()["passages"] != *passages {
        assert!(start.elapsed() < PATIENCE, "not stored: {}", host.get("/status").text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let reply = host.get("/ask?q=When+is+the+workshop+closed%3F");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["citations"][0]["id"], "opening-hours#0", "{answer}");
    assert!(answer["answer"].as_str().is_some_and(|text| !text.trim().is_empty()), "{answer}");
    let streamed = host.get("/ask?q=When+is+the+workshop+closed%3F&stream").text();
    assert!(events(&streamed)[0].starts_with("event: citations\ndata: ["), "{streamed}");
}

#[test]
fn a_new_draw_draws_and_a_new_transcribe_listens() {
    let folder = project("draw", "ts");
    let host = serve(folder.path());
    assert!(host.get("/").text().contains("<title>Draw</title>"));
    let reply = host.get("/api/draw?prompt=a+red+circle&steps=1");
    assert!(reply.status == 200 && reply.body.starts_with(b"\x89PNG\r\n"), "{}", reply.text());

    let folder = project("transcribe", "ts");
    let host = serve(folder.path());
    let sound = std::fs::read(workspace().join("host/inference/tests/golden/speech/jfk.flac")).unwrap();
    let reply = host.send("POST", "/api/transcribe", &[], &sound).read();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.json()["text"].as_str().unwrap().contains("ask not what your country can do for you"));
}

#[test]
fn a_new_hello_greets() {
    for lang in ["ts", "js"] {
        let folder = project("hello", lang);
        let host = serve(folder.path());
        let reply = host.get("/?name=Ada");
        assert_eq!((reply.status, reply.text().as_str()), (200, "Hello, Ada!\n"), "{lang}");
    }
}

#[test]
fn new_projects_pass_their_own_tests() {
    for (template, lang) in SCRIPTS {
        let folder = project(template, lang);
        let mut node = Command::new("node");
        node.args(["--test", "test/worker.test.js"]).current_dir(folder.path().join("demo"));
        node.env("HOST_BIN", env!("CARGO_BIN_EXE_host")).env_remove("HOST_URL").env_remove("NODE_OPTIONS");
        let output = node.output().expect("node is there, as JavaScript workers need it");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{template} {lang}: {out}{err}");
        assert!(out.contains("# fail 0") && !out.contains("# pass 0"), "{template} {lang}: {out}");
    }
}

#[test]
fn a_new_project_in_rust_names_the_sdk_of_this_checkout() {
    let folder = tempfile::tempdir().unwrap();
    let out = printed(folder.path(), &["new", "my-chat", "--template", "rust-chat"]);
    assert!(out.contains("rustup target add wasm32-wasip2") && out.contains("host dev"), "{out}");
    let project = folder.path().join("my-chat");
    assert_eq!(entries(&project), [".gitignore", "Cargo.toml", "README.md", "src", "wrangler.toml"]);
    let read = |file: &str| std::fs::read_to_string(project.join(file)).unwrap();
    let sdk = workspace().join("guest-sdk/rust").display().to_string();
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("name = \"my-chat\"\n"), "{manifest}");
    assert!(manifest.contains(&format!("host-sdk = {{ path = {sdk:?} }}\n")), "{manifest}");
    assert!(read("wrangler.toml").starts_with("name = \"my-chat\"\n"));
    assert!(read("src/lib.rs").contains("#[fetch]"));

    let binding = read("wrangler.toml");
    assert!(binding.contains("main = \"Cargo.toml\""), "{binding}");
}

/// Whether the active toolchain can build for workers by itself.
fn has_target() -> bool {
    let folder = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-wasip2"]).output();
    folder.is_ok_and(|folder| Path::new(String::from_utf8_lossy(&folder.stdout).trim()).is_dir())
}

#[test]
fn a_worker_in_rust_is_built_from_its_manifest() {
    if !has_target() {
        writeln!(std::io::stderr(), "  ! LEFT OUT: a worker built by the host: rustup has no target wasm32-wasip2")
            .unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let manifest = workspace().join("examples/hello/Cargo.toml");
    let config = format!("name = \"w\"\nmain = {:?}\n", manifest.display().to_string());
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    let build = || {
        let mut build = command();
        build.current_dir(folder.path()).args(["build", "--json"]).env("CARGO_NET_OFFLINE", "true");
        // A directory of its own: this build's settings are not those of the guests of other tests.
        build.env("CARGO_TARGET_DIR", folder.path().join("target")).output().unwrap()
    };
    let built = build();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let told: serde_json::Value = serde_json::from_slice(&built.stdout).unwrap();
    let component = told["workers"][0]["component"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
    assert!(component.ends_with("hello.wasm") && Path::new(&component).is_file(), "{told}");
    let host = Host::serve(&format!("name = \"w\"\nmain = {component:?}\n"));
    assert_eq!(host.get("/").text(), "Hello, world!\n");

    std::fs::write(folder.path().join("wrangler.toml"), "name = \"w\"\nmain = \"sub/Cargo.toml\"\n").unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/Cargo.toml"), "[package]\nname = 3\n").unwrap();
    let broken = build();
    let told = String::from_utf8_lossy(&broken.stdout);
    assert_eq!(broken.status.code(), Some(64), "{told}");
    assert!(told.contains("cargo build failed"), "{told}");
}

#[test]
fn building_again_finds_it_built() {
    let folder = project("hello", "ts");
    let build = |arguments: &[&str]| printed(folder.path(), &[&["build", "demo"], arguments].concat());
    let first = build(&[]);
    assert!(first.starts_with("demo  ") && first.contains("B  ") && first.contains(" ms"), "{first}");
    assert!(!first.contains("cached"), "{first}");
    let second = build(&[]);
    assert!(second.trim_end().ends_with("cached"), "{second}");

    let described = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let cached = described(&build(&["--json"]));
    assert_eq!(cached["ok"], true);
    assert_eq!((&cached["workers"][0]["name"], &cached["workers"][0]["kind"]), (&"demo".into(), &"script".into()));
    assert_eq!(cached["workers"][0]["cached"], true, "{cached}");
    let minified = described(&build(&["--json", "--minify"]));
    assert_eq!(minified["workers"][0]["cached"], false, "{minified}");
    let bytes = |built: &Value| built["workers"][0]["bytes"].as_u64().unwrap();
    assert!(bytes(&minified) < bytes(&cached), "{minified} {cached}");
    let script = minified["workers"][0]["script"].as_str().unwrap();
    assert_eq!(std::fs::metadata(script).unwrap().len(), bytes(&minified));

    std::fs::write(folder.path().join("demo/src/index.ts"), "export default { fetch: () => new Response(\"x\") };")
        .unwrap();
    let changed = build(&[]);
    assert!(!changed.contains("cached"), "{changed}");
}

#[test]
fn a_fault_is_printed_with_its_place_and_the_other_workers_are_built() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    write("broken.ts", "export default {\n  fetch(: { },\n};\n");
    write("fine.ts", "export default { fetch: () => new Response(\"x\") };\n");
    let worker = |name: &str| format!("[[workers]]\nname = \"{name}\"\nmain = \"{name}.ts\"\n");
    let component = crate::harness::guest("hello", "p2").display().to_string();
    let more = format!("[[workers]]\nname = \"component\"\nmain = {component:?}\n");
    write("wrangler.toml", &(worker("broken") + &worker("fine") + &more));

    let output = run(folder.path(), &["build"]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(64), "{out}{err}");
    assert!(err.contains("broken.ts:2:") && err.contains("fetch(: { },") && err.contains('^'), "{err}");
    assert!(out.contains("fine  ") && out.contains("component  needs no build"), "{out}");

    let output = run(folder.path(), &["build", "--json"]);
    assert_eq!(output.status.code(), Some(64));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["faults"][0]["worker"], "broken", "{answer}");
    assert!(answer["faults"][0]["message"].as_str().unwrap().contains("broken.ts:2:"), "{answer}");
    assert_eq!(answer["workers"].as_array().map(Vec::len), Some(2), "{answer}");

    let missing = refused(folder.path(), &["build", "nowhere"]);
    assert!(missing.contains("nowhere"), "{missing}");
    let output = run(folder.path(), &["build", "-c", "nowhere.toml", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &answer["ok"]), (Some(64), &Value::Bool(false)), "{answer}");
}

#[test]
fn what_does_not_exist_is_answered_with_what_does() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--template", "chatt"][..], &["--template", "rag", "--lang", "js"]] {
        let message = refused(folder.path(), &[&["new", "demo"], arguments].concat());
        for (template, lang) in SCRIPTS {
            assert!(message.contains(&format!("--template {template} --lang {lang}")), "{message}");
        }
        assert!(message.contains("--template rust-chat --lang rust"), "{message}");
    }
    let list = printed(folder.path(), &["new", "--list"]);
    assert_eq!(list.lines().count(), SCRIPTS.len() + 1, "{list}");
    for subject in ["new", "build"] {
        assert!(printed(folder.path(), &[subject, "--help"]).contains("Examples:"), "{subject}");
    }
    assert_eq!(entries(folder.path()), [""; 0]);
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("taken")).unwrap();
    std::fs::write(folder.path().join("taken/mine"), "mine").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let message = refused(folder.path(), &["new", "taken"]);
    assert!(message.contains("taken") && message.contains("not an empty folder"), "{message}");
    for name in ["Demo", "a_b", "../", "no/demo", "-a"] {
        let message = refused(folder.path(), &["new", "--", name]);
        assert!(message.starts_with("error: "), "{name}: {message}");
    }
    let other = refused(folder.path(), &["new", "demo", "--template", "rust-chat", "--sdk", "empty"]);
    assert!(other.contains("guest-sdk/rust"), "{other}");
    assert_eq!(entries(folder.path()), ["empty", "taken"]);
    assert_eq!(entries(&folder.path().join("taken")), ["mine"]);

    printed(folder.path(), &["new", "empty", "--template", "hello"]);
    assert!(folder.path().join("empty/wrangler.toml").is_file());
}

/// A new `rag` whose models are to lie in a store of its own, which is empty. With `pull` its binding file asks for them.
fn without_models(pull: bool) -> (tempfile::TempDir, String) {
    let folder = project("rag", "ts");
    let file = folder.path().join("demo/wrangler.toml");
    let store = folder.path().join("models").display().to_string();
    let text = std::fs::read_to_string(&file).unwrap();
    let with_store = text.replace("binding = \"AI\"", &format!("binding = \"AI\"\nmodel_directory = {store:?}"));
    assert_ne!(text, with_store);
    assert!(with_store.contains("\npull = true\n"), "{with_store}");
    let with_store = if pull { with_store } else { with_store.replace("\npull = true\n", "\n") };
    std::fs::write(&file, with_store).unwrap();
    (folder, store)
}

#[test]
fn models_that_are_not_here_are_named_with_what_fetches_them() {
    let (folder, store) = without_models(false);
    let host = serve(folder.path());
    host.wait_for_log("--pull");
    host.wait_for_log(&format!("HOST_MODELS_DIR='{store}' host models pull bge-small-en-v1.5 smollm2-135m-instruct"));
    // The worker answers all the same, and says what it can.
    assert_eq!(host.get("/ask?q=x").status, 502);
    assert_eq!(host.get("/").status, 200);
}

#[test]
fn models_are_fetched_before_anything_is_served_and_only_when_that_is_asked_for() {
    for (asked_in_the_file, more) in [(true, &[][..]), (false, &["--pull"])] {
        let (folder, store) = without_models(asked_in_the_file);
        let mut serve = command();
        serve.current_dir(folder.path().join("demo")).args(["serve", "--port", "0"]).args(more);
        // Told to use no index, the tool that fetches models fails at once and uses no network.
        let offline = serve.env("PIP_NO_INDEX", "1").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&offline.stdout), String::from_utf8_lossy(&offline.stderr));
        assert_eq!(offline.status.code(), Some(1), "{out}{err}");
        assert!(err.contains("bge-small-en-v1.5") && !out.contains("Ready"), "{out}{err}");
        let installed = std::fs::read_dir(store).map_or(0, |entries| {
            entries.filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
        });
        assert_eq!(installed, 0);
    }

    // Where all of them are here, there is nothing to fetch.
    let here = project("chat", "ts");
    let file = here.path().join("demo/wrangler.toml").display().to_string();
    let host = Host::start("", &["-c", &file, "--pull"]);
    assert_eq!(host.get("/").status, 400);
    assert!(!host.log().contains("--pull"), "{}", host.log());
}
