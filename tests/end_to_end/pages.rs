//! The examples' pages in a headless Chromium, used as a person uses them. What a page has to do is said in the scripts
//! beside this file; here they get a host and a browser.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::examples::{examples, examples_with_clip};
use crate::harness::{Host, workspace};

/// A Chromium: the one of `HOST_CHROMIUM`, else one of the usual names.
fn chromium() -> Option<String> {
    let own = std::env::var("HOST_CHROMIUM").ok().filter(|program| !program.is_empty());
    let usual = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].map(str::to_owned);
    own.into_iter().chain(usual).find(|program| {
        let mut version = Command::new(program);
        version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    })
}

/// Takes the `steps` steps of `script` on the page of `worker`, with `more` arguments.
fn walk(serve: fn() -> Host, worker: &str, script: &str, steps: usize, more: &[&str]) {
    let Some(chromium) = chromium() else {
        // Not with `eprintln!`, which is shown only where a test fails.
        let left_out = format!(
            "LEFT OUT: the page of {worker} in a browser: there is no Chromium; install one, or name it in HOST_CHROMIUM"
        );
        let mut stderr = std::io::stderr();
        writeln!(stderr, "  ! {left_out}").unwrap();
        return;
    };
    let host = serve();
    let mut node = Command::new("node");
    node.arg(workspace().join("tests/end_to_end").join(script)).arg(chromium);
    node.arg(format!("http://{worker}.localhost:{}/", host.port)).args(more);
    node.stdin(Stdio::null()).env_remove("NODE_OPTIONS");
    let output = node.output().expect("node is there, as JavaScript workers need it");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.lines().count() == steps, "{out}{err}");
}

#[test]
fn the_chat_page_works_in_a_browser() {
    walk(examples, "chat-ui", "chat_page.mjs", 4, &[]);
}

#[test]
fn the_drawing_page_works_in_a_browser() {
    walk(examples, "draw", "draw_page.mjs", 5, &[]);
}

#[test]
fn the_transcribing_page_works_in_a_browser() {
    let speech = workspace().join("host/inference/tests/golden/speech/jfk.flac").display().to_string();
    walk(examples, "transcribe", "transcribe_page.mjs", 5, &[&speech]);
}

#[test]
fn the_searching_page_works_in_a_browser() {
    let pictures = workspace().join("host/inference/tests/golden/vision").display().to_string();
    walk(examples_with_clip, "image-search", "image_search_page.mjs", 4, &[&pictures]);
}
