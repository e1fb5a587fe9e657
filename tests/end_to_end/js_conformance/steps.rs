//! Does what a case says, step by step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::case::{Body, Case, Lines, Request, Step};
use super::expect::{Answer, differences};
use super::project::lay_out;
use crate::harness::{Ended, Host, PATIENCE, Reply, command};

/// `EX_USAGE`: what is wrong is the user's own files.
const USAGE: i32 = 64;

/// Runs a case; the error says what differed.
pub(super) fn run(case: &Case) -> Result<(), String> {
    match &case.said.build_error {
        Some(texts) => refused(case, texts),
        None => served(case),
    }
}

/// What `host check` says of a case.
pub(super) fn check(case: &Case) -> Ended {
    let (folder, files) = lay_out(case);
    let output = command().current_dir(folder.path()).arg("check").args(configs(&files)).output().unwrap();
    Ended { code: output.status.code(), log: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// Neither checking nor serving it succeeds, and both say why.
fn refused(case: &Case, texts: &[String]) -> Result<(), String> {
    told("check", &check(case), texts)?;
    let (folder, files) = lay_out(case);
    match launch(folder, &files, "serve", &[]) {
        Ok(_) => Err("it is served".to_owned()),
        Err(ended) => told("serve", &ended, texts),
    }
}

fn told(command: &str, ended: &Ended, texts: &[String]) -> Result<(), String> {
    let mut faults = Vec::new();
    if ended.code != Some(USAGE) {
        faults.push(format!("`host {command}` ends with {:?}", ended.code));
    }
    for text in texts.iter().filter(|text| !ended.log.contains(text.as_str())) {
        faults.push(format!("`host {command}` does not say {text:?}"));
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("{}\n{}", faults.join("\n  "), ended.log)) }
}

fn served(case: &Case) -> Result<(), String> {
    let steps = case.said.steps.as_deref().unwrap_or_default();
    let scheduled = steps.iter().any(|step| step.scheduled.is_some());
    let (folder, files) = lay_out(case);
    let host = if scheduled {
        launch(folder, &files, "dev", &["--test-scheduled"])
    } else {
        launch(folder, &files, "serve", &[])
    };
    let host = host.map_err(|ended| format!("the host ended with {:?}:\n{}", ended.code, ended.log))?;
    let first = case.said.workers.first().map_or("w", String::as_str);
    let mut remembered = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let worker = step.worker.as_deref().unwrap_or(first);
        let mut faults = take(&host, worker, step, &mut remembered);
        faults.extend(log_differences(&host, step));
        if !faults.is_empty() {
            // What the log has to say about it may be on its way.
            std::thread::sleep(Duration::from_millis(200));
            return Err(format!("step {}:\n  {}\nthe log:\n{}", at + 1, faults.join("\n  "), host.log()));
        }
    }
    Ok(())
}

/// Makes the request of a step, and says what differed in its answer.
fn take(host: &Host, worker: &str, step: &Step, remembered: &mut BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let authority = format!("{worker}.localhost");
    if let Some(scheduled) = &step.scheduled {
        let cron: String = form_encoded(&scheduled.cron);
        let reply = host.send_to(&authority, "GET", &format!("/__scheduled?cron={cron}"), &[], b"").read();
        let answer = Answer { reply: Reply { body: Vec::new(), ..reply }, first: Vec::new(), left: true };
        return differences(&step.expect, &answer, b"", remembered);
    }
    let Some(request) = &step.request else { return vec!["the step does nothing".to_owned()] };
    let (body, content_type) = bytes(request);
    let mut headers: Vec<(&str, &str)> = Vec::new();
    for (name, lines) in &request.headers {
        match lines {
            Lines::One(line) => headers.push((name, line)),
            Lines::Several(lines) => headers.extend(lines.iter().map(|line| (name.as_str(), line.as_str()))),
        }
    }
    if let Some(content_type) = content_type
        && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("content-type", content_type));
    }
    let answer = read(host.send_to(&authority, &request.method, &request.path, &headers, &body).head(), request.leave);
    let faults = differences(&step.expect, &answer, &body, remembered);
    if let Some(name) = &step.remember {
        remembered.insert(name.clone(), answer.reply.body);
    }
    faults
}

fn read(mut head: crate::harness::Head, leave: bool) -> Answer {
    let mut reply = Reply { status: head.status, headers: head.headers.clone(), body: Vec::new(), complete: true };
    let mut first = None;
    loop {
        match head.piece() {
            Ok(Some(piece)) => {
                reply.body.extend_from_slice(&piece);
                first.get_or_insert(piece);
                if leave {
                    break;
                }
            }
            Ok(None) => break,
            Err(_) => {
                reply.complete = false;
                break;
            }
        }
    }
    Answer { reply, first: first.unwrap_or_default(), left: leave }
}

/// A request's body with the content type that goes with it.
fn bytes(request: &Request) -> (Vec<u8>, Option<&'static str>) {
    match &request.body {
        None => (Vec::new(), None),
        Some(Body::Text(text)) => (text.clone().into_bytes(), None),
        Some(Body::Json(body)) => (body.json.to_string().into_bytes(), Some("application/json")),
        Some(Body::Base64(body)) => (super::project::from_base64(&body.base64), None),
        Some(Body::Repeat(body)) => (body.repeat.repeat(body.times).into_bytes(), None),
    }
}

/// What differs in the log, once what has to come has come.
fn log_differences(host: &Host, step: &Step) -> Vec<String> {
    let awaited = step.log.iter().chain(step.log_before.iter().map(|before| &before.before)).map(String::as_str);
    let mut faults: Vec<String> =
        awaited.filter(|text| !comes(host, text)).map(|text| format!("the log never had {text:?}")).collect();
    let log = host.log();
    for text in step.log_once.iter().filter(|text| log.matches(text.as_str()).count() != 1) {
        faults.push(format!("the log has {text:?} {} times", log.matches(text.as_str()).count()));
    }
    for text in step.log_lacks.iter().filter(|text| log.contains(text.as_str())) {
        faults.push(format!("the log has {text:?}"));
    }
    if let Some(before) = &step.log_before {
        let count = log.split(&before.before).next().unwrap_or_default().matches(&before.of).count();
        if count != before.count {
            faults.push(format!("{:?} stands {count} times before {:?}", before.of, before.before));
        }
    }
    faults
}

/// Waits until the log holds a text.
fn comes(host: &Host, text: &str) -> bool {
    let start = Instant::now();
    while !host.log().contains(text) {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn configs(files: &[PathBuf]) -> Vec<String> {
    files.iter().flat_map(|file| ["-c".to_owned(), file.display().to_string()]).collect()
}

fn launch(folder: tempfile::TempDir, files: &[PathBuf], serving: &str, arguments: &[&str]) -> Result<Host, Ended> {
    let configs = configs(files);
    let arguments: Vec<&str> = configs.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    Host::launch(folder, serving, &arguments)
}

/// A text as it stands in a query.
fn form_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
