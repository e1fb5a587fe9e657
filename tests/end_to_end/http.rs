//! HTTP as clients see it: requests, streams, disconnection, routing and shutdown.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::json;

use crate::harness::{FLAVOURS, Host, guest};

fn echo(flavour: &str) -> Host {
    Host::worker(&guest("echo", flavour), "")
}

#[test]
fn a_request_reaches_the_guest_whole() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        let reply = host.send("POST", "/a/b?c=d&e", &[("x-test", "one"), ("x-test", "two")], "grüße".as_bytes()).read();
        let seen = reply.json();
        assert_eq!(reply.status, 200, "{flavour}");
        assert_eq!(seen["method"], json!("POST"), "{flavour}");
        assert_eq!(seen["path"], json!("/a/b"), "{flavour}");
        assert_eq!(seen["url"], json!(format!("http://w.localhost:{}/a/b?c=d&e", host.port)), "{flavour}");
        assert_eq!(seen["body"], json!("grüße"), "{flavour}");
        assert!(seen["headers"]["x-test"].as_str().is_some(), "{flavour}: {seen}");
        assert_eq!(reply.header("x-request-id").map(str::len), Some(16), "{flavour}");
    }
}

#[test]
fn bodies_pass_through_in_both_directions() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        for path in ["/stream", "/pieces"] {
            let reply = host.send("POST", path, &[], &body).read();
            assert!(reply.complete && reply.body == body, "{flavour} {path}: {} bytes", reply.body.len());
        }
    }
}

#[test]
fn statuses_and_empty_bodies() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        for code in [200, 204, 304, 404, 503] {
            let reply = host.get(&format!("/status?code={code}"));
            assert_eq!((reply.status, reply.body.len()), (code, 0), "{flavour}");
        }
        let head = host.send("HEAD", "/a", &[], b"").head();
        assert_eq!(head.status, 200, "{flavour}");
    }
}

#[test]
fn a_handlers_error_is_a_500_that_says_nothing_of_the_inside() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        let reply = host.get("/fail");
        assert_eq!(reply.status, 500, "{flavour}");
        assert!(!reply.text().contains("must not reach"), "{flavour}: {}", reply.text());
        host.wait_for_log("this text must not reach the client");
    }
}

#[test]
fn a_body_that_breaks_off_is_seen_to_break_off() {
    for flavour in FLAVOURS {
        let reply = echo(flavour).get("/broken");
        assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "first", false), "{flavour}");
    }
}

#[test]
fn log_lines_name_worker_and_request() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        let reply = host.get("/log?text=%1B%5B2Jseen");
        host.wait_for_log("seen");
        let log = host.log();
        let line = log.lines().find(|line| line.contains("seen")).unwrap();
        assert!(line.contains("w") && line.contains(reply.header("x-request-id").unwrap()), "{flavour}: {line}");
        assert!(!log.contains("\u{1b}[2J"), "{flavour}: a guest's escapes reach no terminal");
    }
}

#[test]
fn work_after_the_answer_is_done() {
    for flavour in FLAVOURS {
        let host = echo(flavour);
        let reply = host.get("/later?ms=300");
        assert_eq!(reply.text(), "now", "{flavour}");
        host.wait_for_log("later");
    }
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("hostile", flavour), "");
        let mut head = host.send("GET", "/slow-drip?ms=20", &[], b"").head();
        let request = head.header("x-request-id").unwrap().to_owned();
        assert!(head.piece().unwrap().is_some());
        drop(head);
        let ended = |line: &str| line.contains("instance ended") && line.contains(&request);
        let start = std::time::Instant::now();
        while !host.log().lines().any(ended) {
            assert!(start.elapsed() < crate::harness::PATIENCE, "{flavour}: the instance goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The same before any answer.
        let stream = host.send("GET", "/never", &[], b"");
        std::thread::sleep(Duration::from_millis(300));
        let before = host.log().matches("instance ended").count();
        drop(stream);
        let start = std::time::Instant::now();
        while host.log().matches("instance ended").count() == before {
            assert!(start.elapsed() < crate::harness::PATIENCE, "{flavour}: the instance goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_instance_answers_as_many_requests_as_its_worker_says() {
    for (instances, reused) in
        [("", [false, true]), ("instances = \"fresh\"", [false, false]), ("instances = \"reuse\"", [true, true])]
    {
        for (flavour, reused) in FLAVOURS.into_iter().zip(reused) {
            let host = Host::worker(&guest("echo", flavour), instances);
            // An instance may come back a moment after its answer: the next request then finds none.
            let seen = (0..if reused { 100 } else { 5 }).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                host.get("/twice").text() != "1"
            });
            assert_eq!(seen, reused, "{flavour} {instances}");
        }
    }
}

#[test]
fn a_kept_connection_answers_one_request_after_the_other() {
    let host = echo("p3");
    let mut stream = host.connect();
    for n in 0..3 {
        let request = format!("GET /status?code=20{n} HTTP/1.1\r\nhost: w.localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = vec![0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(String::from_utf8(head).unwrap(), format!("HTTP/1.1 20{n}"));
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        if String::from_utf8_lossy(&seen).contains("chunked") {
            let mut end = [0; 5];
            stream.read_exact(&mut end).unwrap();
            assert_eq!(&end, b"0\r\n\r\n");
        }
    }
}

#[test]
fn http2_with_prior_knowledge_is_understood() {
    let host = echo("p3");
    let mut stream = host.connect();
    // The connection preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "the host answers with SETTINGS: {frame:?}");
}

#[test]
fn nonsense_is_refused() {
    let host = echo("p2");
    for nonsense in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GARBAGE\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: w.localhost\r\nx-long: {}\r\n\r\n", "x".repeat(200_000)),
        "GET / HTTP/1.1\r\nhost: w.localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n".to_owned(),
    ] {
        let mut stream = host.connect();
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.take(1 << 16).read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let shown: String = nonsense.chars().take(60).collect();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    assert_eq!(host.get("/").status, 200);
}

#[test]
fn workers_are_found_by_name_and_by_route() {
    let main = guest("env", "p2").display().to_string();
    let config = format!(
        "[[workers]]\nname = \"one\"\nmain = {main:?}\nvars = {{ WHO = \"one\" }}\nroutes = [\"example.com/api/*\"]\n\n\
         [[workers]]\nname = \"two\"\nmain = {main:?}\nvars = {{ WHO = \"two\" }}\nroutes = [\"example.com/*\", \"*.example.org/*\"]\n"
    );
    let host = Host::serve(&config);
    let who = |name: &str, path: &str| {
        let reply = host.send_to(name, "GET", path, &[], b"").read();
        if reply.status == 404 { None } else { Some(()) }
    };
    let vars = |name: &str| host.send_to(name, "GET", "/", &[], b"").read().json()["vars"]["WHO"].clone();
    assert_eq!(vars("one.localhost"), json!("one"));
    assert_eq!(vars("TWO.localhost"), json!("two"));
    assert_eq!(vars("example.com"), json!("two"));
    assert_eq!(vars("a.example.org"), json!("two"));
    assert_eq!(who("nobody.localhost", "/"), None);
    let page = host.send_to("nobody.localhost", "GET", "/", &[], b"").read();
    assert_eq!((page.status, page.json()["error"]["code"].clone()), (404, json!(1001)));
}

#[test]
fn a_signal_lets_requests_end_and_takes_no_more() {
    for flavour in FLAVOURS {
        let mut host = echo(flavour);
        let under_way = host.send("GET", "/slow?ms=1500", &[], b"");
        std::thread::sleep(Duration::from_millis(500));
        host.terminate();
        assert_eq!(under_way.read().text(), "slow", "{flavour}: the request under way ends");
        assert!(host.wait().success(), "{flavour}");
        assert!(std::net::TcpStream::connect(("127.0.0.1", host.port)).is_err(), "{flavour}");
    }
}

#[test]
fn requests_that_do_not_end_are_cut_off_after_the_grace() {
    let config = format!("name = \"w\"\nmain = {:?}\n", guest("hostile", "p2").display().to_string());
    let mut host = Host::start(&config, &["--grace", "1"]);
    let under_way = host.send("GET", "/never", &[], b"");
    std::thread::sleep(Duration::from_millis(500));
    host.terminate();
    assert!(host.wait().success());
    drop(under_way);
    host.wait_for_log("cut off");
}
