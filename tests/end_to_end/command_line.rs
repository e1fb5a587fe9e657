//! The `host` program: exit codes, messages and what is refused before a port is taken.

use std::path::Path;
use std::process::Output;

use crate::harness::{command, guest};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command().current_dir(folder).args(arguments).output().unwrap()
}

fn refused(config: &str, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    std::fs::write(folder.path().join("text.wasm"), "not wasm").unwrap();
    std::fs::write(folder.path().join("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    std::fs::write(folder.path().join("broken.wasm"), b"\0asm\x0d\0\x01\0\x07\xff\xff").unwrap();
    std::fs::write(folder.path().join("empty.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    let output = run(folder.path(), arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{message}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("Ready"), "nothing is served");
    message
}

#[test]
fn a_broken_file_lists_every_fault_with_its_place() {
    let config = "nmae = \"x\"\nmain = 3\n[limits]\ncpu_ms = \"fast\"\n";
    for arguments in [&["serve", "--port", "0"][..], &["check"][..]] {
        let message = refused(config, arguments);
        for part in ["wrangler.toml:1:", "wrangler.toml:2:", "wrangler.toml:4:", "name"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn what_is_no_worker_is_refused_with_the_reason() {
    let with = |main: &str| format!("name = \"w\"\nmain = \"{main}\"\n");
    for (file, reason) in [
        ("text.wasm", "not a WebAssembly file"),
        ("module.wasm", "core WebAssembly module"),
        ("broken.wasm", "not a valid component"),
        ("empty.wasm", "exports nothing"),
    ] {
        let message = refused(&with(file), &["serve", "--port", "0"]);
        assert!(message.contains(reason) && message.contains(file), "{file}: {message}");
    }
}

#[test]
fn an_import_that_is_not_granted_is_refused_with_the_lines_to_add() {
    for flavour in crate::harness::FLAVOURS {
        let config = format!("name = \"w\"\nmain = {:?}\n", guest("ai", flavour).display().to_string());
        let message = refused(&config, &["serve", "--port", "0"]);
        for part in ["workers:ai/inference@0.", "[ai]", "binding = \"AI\""] {
            assert!(message.contains(part), "{flavour} {part}: {message}");
        }
    }
}

#[test]
fn a_taken_port_is_said() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let config = format!("name = \"w\"\nmain = {:?}\n", guest("hello", "p2").display().to_string());
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    let output = run(folder.path(), &["serve", "--ip", "127.0.0.1", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(&port) && message.contains("--port"), "{message}");
}

#[test]
fn check_shows_the_bindings_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        format!("name = \"w\"\nmain = {:?}\nvars = {{ A = \"shown\" }}\n", guest("env", "p2").display().to_string());
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    std::fs::write(folder.path().join(".dev.vars"), "TOKEN=hunter2\n").unwrap();
    for arguments in [&["check"][..], &["check", "--json"][..]] {
        let output = run(folder.path(), arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(0), "{out}{err}");
        assert!(out.contains("shown") && out.contains("TOKEN"), "{out}");
        assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{out}{err}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("models"), "{shell}");
    }
}

#[test]
fn help_has_examples() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["serve", "--help"], &["check", "--help"], &["models", "pull", "--help"]] {
        let output = run(folder.path(), arguments);
        assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"), "{arguments:?}");
    }
}

#[test]
fn a_model_answers_on_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |arguments: &[&str]| {
        let output = run(folder.path(), &[&["ai", "run"], arguments].concat());
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, err)
    };
    let prompt = ["--prompt", "What is the capital of France?", "--set", "temperature=0", "--set", "max_tokens=12"];
    let (code, text, err) = ask(&[&["smollm2-135m-instruct"], &prompt[..]].concat());
    assert!(code == Some(0) && text.contains("Paris"), "{text}{err}");
    let (_, whole, _) = ask(&[&["smollm2-135m-instruct", "--json"], &prompt[..]].concat());
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["response"].as_str().unwrap().trim(), text.trim());
    let (_, vectors, _) = ask(&["bge-small-en-v1.5", "--text", "a", "--text", "b", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&vectors).unwrap()["shape"], serde_json::json!([2, 384]));
    let (code, _, message) = ask(&["smollm2-135m"]);
    assert!(code == Some(64) && message.contains("smollm2-135m-instruct"), "{message}");
    let (code, _, message) = ask(&["bge-small-en-v1.5", "--set", "text=7"]);
    assert!(code == Some(1) && message.contains("5006") && message.contains("'/text'"), "{message}");
}

#[test]
fn models_are_listed_by_task_and_by_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let listed = |arguments: &[&str]| {
        let output = run(folder.path(), &[&["models", "list", "--json"], arguments].concat());
        let models: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        models.into_iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let encoders = listed(&["--task", "text-embeddings", "--installed"]);
    assert!(encoders.iter().any(|name| name == "bge-small-en-v1.5"), "{encoders:?}");
    assert!(!encoders.iter().any(|name| name.contains("smollm2") || name.starts_with("@cf/")), "{encoders:?}");
    assert!(listed(&["--task", "text-generation"]).iter().any(|name| name.starts_with("@cf/")));
    let output = run(folder.path(), &["models", "list", "--task", "juggling"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("speech"), "the tasks are named");
}

#[test]
fn a_hub_is_not_asked_where_the_user_is_offline() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["models", "pull", "hf:owner/repository", "--as", "mine"];
    let mut pull = command();
    // Nobody listens there: only a pull that is not tried says something else.
    pull.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", "http://127.0.0.1:9").env("HOST_MODELS_DIR", folder.path());
    let output = pull.args(arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn models_are_listed_by_licence_and_told_of_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&run(folder.path(), arguments).stdout).unwrap()
    };
    let listed = json(&["models", "list", "--licence", "LLAMA3.1", "--json"]);
    let listed = listed.as_array().unwrap();
    assert!(!listed.is_empty() && listed.iter().all(|model| model["licence"] == "llama3.1" && model["gated"] == true));
    let model = json(&["models", "info", "@cf/meta/llama-3.1-8b-instruct-awq", "--json"]);
    assert_eq!(model["repository"], "meta-llama/Llama-3.1-8B-Instruct");
    assert_eq!((&model["revision"], &model["context"]), (&"main".into(), &131_072.into()));
    let output = run(folder.path(), &["models", "info", "@cf/baai/bge-base-en-v1.5"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for known in ["text-embeddings", "MIT", "109M", "768", "512 tokens", "BAAI/bge-base-en-v1.5", "host models pull"] {
        assert!(text.contains(known), "{known}: {text}");
    }
    let output = run(folder.path(), &["models", "info", "bge-smal-en-v1.5"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean bge-small-en-v1.5"));
}

/// Answers every request with this status and header, and gives what was asked and with which token.
fn mirror(head: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead as _, Write as _};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let _ = told.send(request.join("\n"));
            let _ = write!(stream, "HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (url, asked)
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_wait_for_the_hub_and_says_what_is_kept() {
    use std::io::BufRead as _;
    let folder = tempfile::tempdir().unwrap();
    let (url, _asked) = mirror("429 Too Many Requests\r\nretry-after: 100");
    let mut pull = command();
    pull.env("HF_ENDPOINT", url).env("HOST_MODELS_DIR", folder.path()).env_remove("HF_HUB_OFFLINE");
    pull.args(["models", "pull", "hf:owner/repository", "--as", "mine"]).stderr(std::process::Stdio::piped());
    let mut pull = pull.spawn().unwrap();
    let mut told = std::io::BufReader::new(pull.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("the hub asks to wait 100 s")));
    let sent = std::process::Command::new("kill").args(["-INT", &pull.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert!(told.any(|line| line.contains("the same command goes on from there")));
    assert_eq!(pull.wait().unwrap().code(), Some(130));
}

#[test]
fn a_mirror_is_asked_with_the_users_token_and_by_cloudflares_names() {
    let folder = tempfile::tempdir().unwrap();
    let (url, asked) = mirror("403 Forbidden");
    for (arguments, path) in [
        (&["hf:owner/repository", "--as", "mine"][..], "owner/repository"),
        (&["@cf/meta/llama-3.2-1b-instruct", "--connections", "2"], "meta-llama/Llama-3.2-1B-Instruct"),
    ] {
        let mut pull = command();
        pull.env("HF_ENDPOINT", format!("{url}/")).env("HF_TOKEN", "secret").env("HOST_MODELS_DIR", folder.path());
        let output = pull.env_remove("HF_HUB_OFFLINE").args(["models", "pull"]).args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(&format!("{url}/{path}")), "{message}");
        assert!(message.contains("HF_TOKEN") && !message.contains("secret"), "{message}");
        let head = asked.recv().unwrap().to_lowercase();
        assert!(head.contains(&path.to_lowercase()) && head.contains("authorization: bearer secret"), "{head}");
    }
    let output = run(folder.path(), &["models", "pull", "smollm2-135m-instruct", "--connections", "17"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("1 to 16"));
}
