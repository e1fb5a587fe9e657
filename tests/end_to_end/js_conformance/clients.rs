//! `tests/js-clients`: libraries that programs for Workers AI are written with, at the versions of its lock file, in a
//! worker as their users write it.
//!
//! The set-up installs them there with npm, once for a lock file.

use std::path::Path;

use serde_json::json;

use crate::harness::{Host, workspace};

#[test]
fn client_libraries_work_as_their_users_use_them() {
    let project = workspace().join("tests/js-clients");
    let folder = tempfile::tempdir().unwrap();
    copy(&project, folder.path());
    link_packages(&project, folder.path());
    let host = Host::launch(folder, "serve", &[]).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"));
    routes(&host);
    models(&host);
}

/// The example needs the same packages, so it is served with them. The model says what it is told, which decides what it
/// calls; then it says what the tool has said.
#[test]
fn the_agent_of_the_examples_calls_its_tools() {
    let project = workspace().join("examples/agent");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    for file in ["package.json", "src/index.ts"] {
        std::fs::copy(project.join(file), folder.path().join(file)).unwrap();
    }
    let binding = std::fs::read_to_string(project.join("wrangler.toml")).unwrap();
    let scripted =
        binding.replace("\"smollm2-135m-instruct\"", "\"parrot\"").replace("name = \"agent\"", "name = \"w\"");
    assert_ne!(binding, scripted);
    let parrot = "[[ai.models]]\nname = \"parrot\"\ntask = \"text-generation\"\nbackend = \"mock\"\n";
    std::fs::write(folder.path().join("wrangler.toml"), format!("{scripted}\n{parrot}")).unwrap();
    link_packages(&workspace().join("tests/js-clients"), folder.path());
    let host = Host::launch(folder, "serve", &[]).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"));
    let question = "<tool_call>\n{\"name\": \"planet\", \"arguments\": {\"name\": \"jupiter\"}}\n</tool_call>";
    let reply = host.send("POST", "/", &[], question.as_bytes()).read();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (answer, facts) = (reply.json(), json!({ "dayHours": 9.9, "moons": 97 }));
    assert_eq!(answer["calls"], json!([{ "tool": "planet", "input": { "name": "jupiter" }, "output": facts }]));
    assert!(answer["answer"].as_str().is_some_and(|text| text.contains("9.9")), "{answer}");
    assert_eq!(host.send("POST", "/", &[], b" ").read().status, 400);
    assert_eq!(host.get("/").status, 405);
}

/// `hono`: routes, middleware, bodies and streams.
fn routes(host: &Host) {
    let hello = host.get("/plain/hello/x?q=1");
    assert_eq!(hello.json(), json!({ "hello": "x", "q": "1" }));
    assert_eq!((hello.header("access-control-allow-origin"), hello.header("x-middleware")), (Some("*"), Some("ran")));
    let made = host.post("/plain/json", &json!({ "a": [1, "ü"] }));
    assert_eq!((made.status, made.json()), (201, json!({ "a": [1, "ü"] })));
    let form = "--b\r\ncontent-disposition: form-data; name=\"name\"\r\n\r\nn\r\n--b\r\n\
                content-disposition: form-data; name=\"file\"; filename=\"f.txt\"\r\n\r\nin it\r\n--b--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    let form = host.send("POST", "/plain/form", &headers, form.as_bytes()).read();
    assert_eq!(form.json(), json!({ "name": "n", "file": "f.txt", "text": "in it" }));
    let mut words = host.send("GET", "/plain/words", &[], b"").head();
    assert_eq!(words.piece().unwrap().unwrap(), b"one\n", "the first word leaves before the second is written");
    assert_eq!(words.piece().unwrap().unwrap(), b"two\n");
    assert!(words.piece().unwrap().is_none());
    let events = host.get("/plain/events");
    assert_eq!(events.text(), "event: tick\ndata: 1\nid: 7\n\n");
    assert_eq!(host.get("/plain/throws").status, 500);
    host.wait_for_log("on purpose");
    assert_eq!(host.get("/nowhere").status, 404);
}

/// `workers-ai-provider` with `ai`, and `@cloudflare/ai-utils`.
fn models(host: &Host) {
    assert_eq!(host.get("/ai/text").json(), json!({ "text": "say this back", "tokens": 6, "finishReason": "stop" }));
    let mut stream = host.send("GET", "/ai/stream", &[], b"").head();
    let mut text = String::from_utf8(stream.piece().unwrap().unwrap()).unwrap();
    assert!(!text.contains("five"), "not a piece but all: {text}");
    while let Some(piece) = stream.piece().unwrap() {
        text.push_str(&String::from_utf8(piece).unwrap());
    }
    assert_eq!(text, "one two three four five");
    assert_eq!(host.get("/ai/object").json(), json!({ "name": "robot", "year": 1920 }));
    assert_eq!(host.get("/ai/tools").json(), json!({ "calls": [["add", { "a": 40, "b": 2 }]], "results": [42] }));
    assert_eq!(host.get("/ai/embed").json(), json!({ "values": ["a", "b", "c"], "lengths": [4, 4, 4] }));
    let refused = host.get("/ai/refused").json();
    assert_eq!(refused["message"], "3040: Capacity temporarily exceeded, please try again.");
    assert_eq!(host.get("/utils/tools").json()["added"], json!(42));
}

fn copy(from: &Path, to: &Path) {
    for file in ["package.json", "package-lock.json", ".npmrc", "wrangler.toml", "src/index.js"] {
        let to = to.join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from.join(file), to).unwrap();
    }
}

/// Puts the packages that the set-up has installed beside the project's copy.
fn link_packages(installed: &Path, project: &Path) {
    let packages = installed.join("node_modules");
    assert!(packages.is_dir(), "{} is missing; `cargo xtask setup` installs it", packages.display());
    std::os::unix::fs::symlink(packages, project.join("node_modules")).unwrap();
}
