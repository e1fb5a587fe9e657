//! `host dev`: what is saved is served, what is broken is told, and no request notices.
//!
//! Files are written as an editor does, and the answer is asked for until it is the expected one: how long that takes is
//! for a benchmark.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Host, PATIENCE, Reply};

const CONFIG: &str = "name = \"w\"\nmain = \"src/index.ts\"\ncompatibility_date = \"2026-01-01\"\n";

/// A worker that answers with `text`, an expression.
fn answering(text: &str) -> String {
    format!(
        "let asked: number = 0;\nexport default {{\n  async fetch(request: Request, env: any) {{\n    asked++;\n    \
         return new Response({text});\n  }},\n}};\n"
    )
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        save(folder.path(), name, text);
    }
    folder
}

fn save(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Saves as editors do that never leave half a file.
fn replace(folder: &Path, name: &str, text: &str) {
    save(folder, ".saving", text);
    std::fs::rename(folder.join(".saving"), folder.join(name)).unwrap();
}

fn start(files: &[(&str, &str)], arguments: &[&str]) -> Host {
    Host::launch(folder(files), "dev", arguments).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"))
}

fn worker(source: &str) -> Host {
    start(&[("wrangler.toml", CONFIG), ("src/index.ts", source)], &[])
}

/// Asks until the answer is `text`.
fn wait_for_answer(host: &Host, text: &str) {
    wait_for(host, &format!("{text:?}"), |reply| reply.text() == text);
}

fn wait_for(host: &Host, what: &str, is: impl Fn(&Reply) -> bool) {
    let start = Instant::now();
    loop {
        let reply = host.get("/");
        if is(&reply) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "never {what} but {}: {}\n{}", reply.status, reply.text(), host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the log holds `text` for the `times`th time.
fn wait_for_count(host: &Host, text: &str, times: usize) {
    let start = Instant::now();
    while host.log().matches(text).count() < times {
        assert!(start.elapsed() < PATIENCE, "{text:?} never came {times} times:\n{}", host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_saved_is_served() {
    let host = worker(&answering("'one'"));
    assert_eq!(host.get("/").text(), "one");
    save(host.folder(), "src/index.ts", &answering("'two'"));
    wait_for_answer(&host, "two");
    replace(host.folder(), "src/index.ts", &answering("'three'"));
    wait_for_answer(&host, "three");
    wait_for_count(&host, "reloaded w in ", 2);
    assert!(!host.log().contains('\x1b'), "no escape codes where there is no terminal:\n{}", host.log());
    assert!(!host.log().contains("keys:"), "no keys either:\n{}", host.log());
}

#[test]
fn a_syntax_error_is_told_with_its_place_and_keeps_the_old_version() {
    let host = worker(&answering("'one'"));
    save(host.folder(), "src/index.ts", "export default {\n  async fetch() { return new Response(; },\n};\n");
    host.wait_for_log("not reloaded: the version before goes on");
    host.wait_for_log("src/index.ts:2:39: error:");
    host.wait_for_log("^");
    assert_eq!(host.get("/").text(), "one");
    save(host.folder(), "src/index.ts", &answering("'two'"));
    wait_for_answer(&host, "two");
}

#[test]
fn a_script_that_throws_at_its_start_keeps_the_old_version() {
    let host = worker(&answering("'one'"));
    save(host.folder(), "src/index.ts", "throw new Error('not today');\nexport default {};\n");
    host.wait_for_log("not reloaded");
    host.wait_for_log("not today");
    assert_eq!(host.get("/").text(), "one");
}

#[test]
fn what_is_as_it_was_is_not_swapped() {
    let source = answering("String(asked)");
    let host = worker(&source);
    assert_eq!(host.get("/").text(), "1");
    save(host.folder(), "src/index.ts", "{{{");
    host.wait_for_log("not reloaded");
    save(host.folder(), "src/index.ts", &source);
    host.wait_for_log("nothing has changed since");
    assert_eq!(host.get("/").text(), "2", "globals are kept");
}

#[test]
fn a_changed_binding_file_and_new_secrets_are_served() {
    let source = answering("`${env.GREETING} ${env.TOKEN}`");
    let with = |greeting: &str| format!("{CONFIG}[vars]\nGREETING = \"{greeting}\"\n");
    let host = start(&[("wrangler.toml", &with("hello")), ("src/index.ts", &source)], &[]);
    assert_eq!(host.get("/").text(), "hello undefined");
    save(host.folder(), "wrangler.toml", &with("bye"));
    wait_for_answer(&host, "bye undefined");
    save(host.folder(), ".dev.vars", "TOKEN=first-token\n");
    wait_for_answer(&host, "bye first-token");
    save(host.folder(), ".dev.vars", "TOKEN=second-token\n");
    wait_for_answer(&host, "bye second-token");
    assert!(!host.log().contains("first-token"), "secrets are not told");

    save(host.folder(), "wrangler.toml", "name = \"w\"\nnmae = 3\n");
    host.wait_for_log("wrangler.toml:2:1");
    assert_eq!(host.get("/").text(), "bye second-token");
    save(host.folder(), "wrangler.toml", &format!("{}[dev]\nport = 1\n", with("again")));
    wait_for_answer(&host, "again second-token");
    assert!(!host.log().contains("[dev] has changed"), "the command line says where to listen");
}

#[test]
fn a_new_file_is_found_wherever_it_appears() {
    let host = worker(&answering("'one'"));
    let importing = format!("import {{ text }} from './deep/er/text';\n{}", answering("text"));
    save(host.folder(), "src/index.ts", &importing);
    host.wait_for_log("./deep/er/text");
    save(host.folder(), "src/deep/er/text.ts", "export const text: string = 'two';\n");
    wait_for_answer(&host, "two");
    save(host.folder(), "src/deep/er/text.ts", "export const text: string = 'three';\n");
    wait_for_answer(&host, "three");
    std::fs::remove_dir_all(host.folder().join("src/deep")).unwrap();
    wait_for_count(&host, "not reloaded", 2);
    save(host.folder(), "src/deep/er/text.ts", "export const text: string = 'four';\n");
    wait_for_answer(&host, "four");
}

#[test]
fn a_request_under_way_ends_with_the_version_that_it_began_with() {
    let streaming = |word: &str| {
        format!(
            "export default {{\n  async fetch(request: Request, env: any) {{\n    \
             if (new URL(request.url).pathname !== '/stream') return new Response('{word}');\n    \
             const encoder = new TextEncoder();\n    const body = new ReadableStream({{\n      \
             async start(controller) {{\n        controller.enqueue(encoder.encode('{word} begins\\n'));\n        \
             for (;;) {{\n          const next = await (await env.OTHER.fetch('http://other/')).text();\n          \
             if (next === 'two') break;\n          await new Promise((done) => setTimeout(done, 20));\n        }}\n        \
             controller.enqueue(encoder.encode('{word} ends\\n'));\n        controller.close();\n      }},\n    }});\n    \
             return new Response(body);\n  }},\n}};\n"
        )
    };
    // The stream goes on until a file of the other worker, which is read on every request, says so.
    let config = "[[workers]]\nname = \"w\"\nmain = \"src/index.ts\"\nservices = [{ binding = \"OTHER\", service = \"other\" }]\n\
                  [[workers]]\nname = \"other\"\nassets = { directory = \"files\" }\n";
    let files = [("wrangler.toml", config), ("src/index.ts", &streaming("one")), ("files/index.html", "one")];
    let host = start(&files, &[]);
    let mut head = host.send("GET", "/stream", &[], b"").head();
    let mut body = String::from_utf8(head.piece().unwrap().unwrap()).unwrap();
    save(host.folder(), "src/index.ts", &streaming("two"));
    wait_for_answer(&host, "two");
    save(host.folder(), "files/index.html", "two");
    while let Some(piece) = head.piece().expect("the stream ends whole") {
        body.push_str(&String::from_utf8(piece).unwrap());
    }
    assert_eq!(body, "one begins\none ends\n");
}

#[test]
fn a_first_build_that_fails_is_told_and_waited_for() {
    let folder = folder(&[("wrangler.toml", CONFIG), ("src/index.ts", "export default {\n  fetch( {\n")]);
    let mut host = Host::spawn(folder, "dev", &[]);
    host.wait_for_log("src/index.ts:3:");
    host.wait_for_log("not reloaded: nothing is served");
    save(host.folder(), "src/index.ts", &answering("'mended'"));
    assert!(host.wait_until_ready().is_some(), "{}", host.log());
    assert_eq!(host.get("/").text(), "mended");
    host.terminate();
    assert_eq!(host.wait().code(), Some(0));
}

#[test]
fn a_binding_file_that_is_broken_at_the_start_ends_it() {
    let folder = folder(&[("wrangler.toml", "name = \"w\"\nmain = 3\n")]);
    let Err(ended) = Host::launch(folder, "dev", &[]) else { panic!("it serves") };
    assert_eq!(ended.code, Some(64), "{}", ended.log);
    assert!(ended.log.contains("wrangler.toml:2:"), "{}", ended.log);
}

#[test]
fn models_that_are_wrong_at_the_start_end_it_too() {
    let config = format!(
        "{CONFIG}[[ai.models]]\nname = \"m\"\ntask = \"text-generation\"\nbackend = \"mock\"\nmock = {{ tokens = \"x\" }}\n"
    );
    let folder = folder(&[("wrangler.toml", &config), ("src/index.ts", &answering("'one'"))]);
    let Err(ended) = Host::launch(folder, "dev", &[]) else { panic!("it serves") };
    assert_eq!(ended.code, Some(64), "{}", ended.log);
}

#[test]
fn several_workers_are_swapped_one_by_one_and_told_by_name() {
    let config = "[[workers]]\nname = \"w\"\nmain = \"w.ts\"\n[[workers]]\nname = \"x\"\nmain = \"x.ts\"\n";
    let host =
        start(&[("wrangler.toml", config), ("w.ts", &answering("'one'")), ("x.ts", &answering("String(asked)"))], &[]);
    save(host.folder(), "w.ts", &answering("'two'"));
    wait_for_answer(&host, "two");
    host.wait_for_log("reloaded w in ");
    assert_eq!(host.send_to("x.localhost", "GET", "/", &[], b"").read().text(), "1");
}

#[test]
fn the_models_of_the_host_are_served_with_the_new_file() {
    let source = "export default {\n  async fetch(request: Request, env: any) {\n    \
                  return Response.json(await env.AI.run('m', { prompt: 'hi' }));\n  },\n};\n";
    let with = |answer: &str| {
        format!(
            "{CONFIG}[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"m\"\ntask = \"text-generation\"\n\
             backend = \"mock\"\nmock = {{ reply = \"{answer}\" }}\n"
        )
    };
    let host = start(&[("wrangler.toml", &with("one")), ("src/index.ts", source)], &[]);
    let says = |answer: &str| {
        let expected = json!(answer);
        wait_for(&host, answer, |reply| reply.status == 200 && reply.json()["response"] == expected);
    };
    says("one");
    save(host.folder(), "wrangler.toml", &with("two"));
    says("two");
}

#[test]
fn the_scheduled_handler_is_called_when_it_is_asked_for() {
    let source = "export default {\n  async fetch() { return new Response('fetched'); },\n  \
                  async scheduled(event: any) {\n    console.log(`at ${event.cron} of ${event.scheduledTime}`);\n    \
                  if (event.cron === 'bad') throw new Error('no');\n  },\n};\n";
    let files = [("wrangler.toml", CONFIG), ("src/index.ts", source)];
    let host = start(&files, &["--test-scheduled"]);
    let reply = host.get("/__scheduled?cron=*+*+*+*+1");
    assert_eq!((reply.status, reply.text().as_str()), (200, "Ran scheduled event"));
    host.wait_for_log("at * * * * 1 of ");
    let reply = host.get("/cdn-cgi/handler/scheduled?cron=0+0+*+*+*&time=1700000000000");
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    host.wait_for_log("at 0 0 * * * of 1700000000000");
    let reply = host.get("/__scheduled?cron=bad");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (500, &json!(1101)));
    assert_eq!(host.get("/").text(), "fetched");

    let host = start(&files, &[]);
    assert_eq!(host.get("/__scheduled").text(), "fetched", "without the flag the address is the worker's own");
}

#[cfg(unix)]
mod terminal {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::process::{Child, ExitStatus, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use nix::pty::openpty;
    use nix::sys::termios::{LocalFlags, tcgetattr};

    use super::{CONFIG, answering, folder};
    use crate::harness::{PATIENCE, command};

    /// A host at a terminal of its own.
    struct Seat {
        child: Child,
        master: File,
        slave: OwnedFd,
        shown: Arc<Mutex<String>>,
        folder: tempfile::TempDir,
    }

    impl Seat {
        fn take() -> Self {
            let folder = folder(&[("wrangler.toml", CONFIG), ("src/index.ts", &answering("String(asked)"))]);
            let pair = openpty(None, None).unwrap();
            let path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
            let end = || Stdio::from(pair.slave.try_clone().unwrap());
            let child = command()
                .current_dir(folder.path())
                .env("PATH", std::env::join_paths([folder.path().to_owned()].into_iter().chain(path)).unwrap())
                .args(["dev", "--port", "0", "--ip", "127.0.0.1"])
                .stdin(end())
                .stdout(end())
                .stderr(end())
                .spawn()
                .unwrap();
            let master = File::from(pair.master);
            let shown = Arc::new(Mutex::new(String::new()));
            let (mut reading, text) = (master.try_clone().unwrap(), shown.clone());
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = reading.read(&mut piece) {
                    text.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
                }
            });
            let seat = Seat { child, master, slave: pair.slave, shown, folder };
            seat.wait_for("keys: ");
            seat
        }

        fn shown(&self) -> String {
            self.shown.lock().unwrap().clone()
        }

        fn wait_for(&self, text: &str) {
            self.wait_until(text, |shown| shown.contains(text));
        }

        fn wait_until(&self, what: &str, is: impl Fn(&str) -> bool) {
            let start = Instant::now();
            while !is(&self.shown()) {
                assert!(start.elapsed() < PATIENCE, "never {what:?}:\n{}", self.shown());
                std::thread::sleep(Duration::from_millis(20));
            }
        }

        fn press(&mut self, keys: &str) {
            self.master.write_all(keys.as_bytes()).unwrap();
        }

        fn flags(&self) -> LocalFlags {
            tcgetattr(&self.slave).unwrap().local_flags
        }

        fn wait(&mut self) -> ExitStatus {
            let start = Instant::now();
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.shown());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Seat {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    const LINES: LocalFlags = LocalFlags::ICANON.union(LocalFlags::ECHO);

    #[test]
    fn keys_rebuild_clear_help_and_exit() {
        let mut seat = Seat::take();
        assert!(!seat.flags().intersects(LINES), "keys come one by one");
        assert!(!seat.shown().contains('\x1b'), "no escape codes before they are asked for: {}", seat.shown());
        seat.press("r");
        seat.wait_for("reloaded w in ");
        seat.press("zh");
        seat.wait_until("the keys again", |shown| shown.matches("keys: ").count() == 2);
        seat.press("c");
        seat.wait_for("\x1b[2J");
        seat.press("x");
        assert_eq!(seat.wait().code(), Some(0), "{}", seat.shown());
        assert!(seat.flags().contains(LINES), "the terminal is as it was");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_key_opens_the_browser_of_the_desktop() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut seat = Seat::take();
        let browser = seat.folder.path().join("xdg-open");
        std::fs::write(&browser, "#!/bin/sh\necho \"$1\" > opened.tmp\nmv opened.tmp opened\n").unwrap();
        std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o700)).unwrap();
        seat.press("b");
        let opened = seat.folder.path().join("opened");
        seat.wait_until("opened", |_| opened.exists());
        let shown = seat.shown();
        let ready = shown.lines().find_map(|line| line.trim().strip_prefix("Ready on ")).unwrap();
        assert_eq!(std::fs::read_to_string(&opened).unwrap().trim(), format!("{ready}/"));
    }

    #[test]
    fn signals_leave_the_terminal_as_it_was() {
        for signal in ["-INT", "-TERM", "-HUP", "-QUIT"] {
            let mut seat = Seat::take();
            let id = seat.child.id().to_string();
            assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
            assert_eq!(seat.wait().code(), Some(0), "{signal}: {}", seat.shown());
            assert!(seat.flags().contains(LINES), "{signal}: the terminal is as it was");
        }
    }
}
