//! Calls of servers on loopback that answer well, badly or not at all.

#[path = "../../../../tests/support/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host_upstream::{Answer, Ask, Key, Patience, Retries, Settings, UpstreamError, Upstreams};
use http::{HeaderMap, Method};
use scripted::{Line, Scripted, Seen};

const KEY: &str = "a-secret-key";

fn group(urls: &[String], attempts: u32, patience: Duration) -> Upstreams {
    let addresses = urls.iter().map(|url| url.parse().expect("an address")).collect();
    Upstreams::new(Settings {
        addresses,
        key: Key::bearer(KEY),
        patience: Patience { answer: patience },
        retries: Retries { attempts },
        health: "/models".to_owned(),
    })
    .expect("servers")
}

/// Patience that no test runs out of.
const LONG: Duration = Duration::from_secs(60);

fn ask() -> Ask {
    Ask { method: Method::POST, path: "/chat".to_owned(), headers: HeaderMap::new(), body: "{}".into() }
}

async fn text(group: &Upstreams) -> Result<String, UpstreamError> {
    let ask = ask();
    let called = group.run(|attempt| {
        let ask = &ask;
        async move {
            let mut answer: Answer = attempt.send(ask).await?.success().await?;
            answer.whole(1 << 16).await
        }
    });
    called.await.map(|body| String::from_utf8_lossy(&body).into_owned())
}

fn well(_: usize, _: &Seen, line: &mut Line) -> bool {
    line.json(200, "\"well\"");
    true
}

#[tokio::test]
async fn a_connection_is_used_again_and_the_key_is_shown() {
    let server = Scripted::start(well);
    let group = group(&[server.url()], 1, LONG);
    for _ in 0..5 {
        assert_eq!(text(&group).await.unwrap(), "\"well\"");
    }
    assert_eq!(server.connections(), 1);
    let seen = server.seen();
    assert_eq!((seen[4].path.as_str(), seen[4].header("authorization")), ("/v1/chat", Some("Bearer a-secret-key")));
    assert!(!format!("{:?}", Key::bearer(KEY)).contains(KEY));
}

#[tokio::test]
async fn a_connection_that_closed_while_it_waited_fails_nobody() {
    let server = Scripted::start(|_, _, line| {
        line.json(200, "1");
        false
    });
    let group = group(&[server.url()], 1, LONG);
    for _ in 0..5 {
        assert_eq!(text(&group).await.unwrap(), "1");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let server = Scripted::start(|before, _, line| {
        match before {
            0 => line.answer(429, "text/plain", "retry-after: 0\r\n", "slow down"),
            1 => line.json(503, "{}"),
            _ => line.json(200, "\"at last\""),
        }
        true
    });
    assert_eq!(text(&group(&[server.url()], 3, LONG)).await.unwrap(), "\"at last\"");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn what_will_not_pass_is_told_at_once() {
    let server = Scripted::start(|_, _, line| {
        line.json(400, "{\"error\":\"no\nsuch \u{1b}thing\"}");
        true
    });
    let error = text(&group(&[server.url()], 5, LONG)).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Status { status: 400, message, .. } if message.contains("no such")),
        "{error}"
    );
    assert!(!error.to_string().chars().any(char::is_control));
    assert_eq!(server.seen().len(), 1);
    // A wait that is too long is left to the caller.
    let patient = Scripted::start(|_, _, line| {
        line.answer(429, "text/plain", "retry-after: 3600\r\n", "");
        true
    });
    let error = text(&group(&[patient.url()], 5, LONG)).await.unwrap_err();
    assert_eq!((error.retry_after(), patient.seen().len()), (Some(Duration::from_secs(3600)), 1));
}

#[tokio::test]
async fn hostile_answers_are_errors_in_bounded_time_and_memory() {
    type Script = fn(usize, &Seen, &mut Line) -> bool;
    let scripts: [(&str, Script, &str); 7] = [
        (
            "silence",
            |_, _, line| {
                line.wait_for_close();
                false
            },
            "did not begin to answer",
        ),
        (
            "an endless head",
            |_, _, line| {
                line.raw("HTTP/1.1 200 OK\r\n");
                while line.raw("x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") {}
                false
            },
            "cannot be used",
        ),
        (
            "a body shorter than its length",
            |_, _, line| {
                line.raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort");
                false
            },
            "broke off",
        ),
        (
            "an endless body",
            |_, _, line| {
                line.raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                // Long pieces: a loaded machine comes to the bound in size before that in time.
                let piece = format!("2000\r\n{}\r\n", "a".repeat(0x2000));
                while line.raw(&piece) {}
                false
            },
            "longer than",
        ),
        (
            "a body that stops",
            |_, _, line| {
                line.raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort");
                line.wait_for_close();
                false
            },
            "within",
        ),
        (
            "no HTTP",
            |_, _, line| {
                line.raw("SSH-2.0-OpenSSH\r\n");
                line.wait_for_close();
                false
            },
            "cannot be used",
        ),
        ("nothing at all", |_, _, _| false, "cannot be used"),
    ];
    for (what, script, expected) in scripts {
        let server = Scripted::start(script);
        let error = text(&group(&[server.url()], 1, Duration::from_millis(500))).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(error.may_be_retried(), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_fails_no_call_while_another_is_there() {
    let (good, gone) = (Scripted::start(well), Scripted::start(well));
    let group = group(&[good.url(), gone.url()], 2, LONG);
    for _ in 0..4 {
        text(&group).await.unwrap();
    }
    assert!(!gone.seen().is_empty() && !good.seen().is_empty(), "they take turns");
    drop(gone);
    for _ in 0..40 {
        assert_eq!(text(&group).await.unwrap(), "\"well\"");
    }
}

#[tokio::test]
async fn the_least_busy_server_is_asked() {
    let release = Arc::new(AtomicBool::new(false));
    let held = release.clone();
    let slow = Scripted::start(move |_, _, line| {
        while !held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        line.json(200, "\"slow\"");
        true
    });
    let quick = Scripted::start(well);
    let group = group(&[slow.url(), quick.url()], 1, LONG);
    let other = group.clone();
    let first = tokio::spawn(async move { text(&other).await });
    while slow.seen().is_empty() && quick.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Once the slow one holds a call, all others go to the quick one.
    let mut calls = 0;
    while slow.seen().is_empty() {
        let other = group.clone();
        tokio::spawn(async move { text(&other).await });
        tokio::time::sleep(Duration::from_millis(2)).await;
        calls += 1;
        assert!(calls < 100, "the slow one is never asked");
    }
    let before = slow.seen().len();
    for _ in 0..10 {
        assert_eq!(text(&group).await.unwrap(), "\"well\"");
    }
    assert_eq!(slow.seen().len(), before);
    release.store(true, Ordering::SeqCst);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_rests_until_it_is_well() {
    let well = Arc::new(AtomicBool::new(false));
    let now = well.clone();
    let server = Scripted::start(move |_, _, line| {
        if now.load(Ordering::SeqCst) {
            line.json(200, "\"well\"")
        } else {
            line.json(500, "{}")
        }
        true
    });
    let group = group(&[server.url()], 1, LONG);
    while !matches!(text(&group).await, Err(UpstreamError::AllDown { .. })) {
        assert!(server.seen().len() < 20, "it is never left alone");
    }
    let calls = |seen: Vec<Seen>| seen.iter().filter(|seen| seen.path == "/v1/chat").count();
    let before = calls(server.seen());
    assert!(matches!(text(&group).await, Err(UpstreamError::AllDown { .. })));
    assert_eq!(calls(server.seen()), before, "nobody's request is a test of it");
    well.store(true, Ordering::SeqCst);
    let recovered = async {
        while text(&group).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, recovered).await.expect("a health check finds it well");
    assert!(server.seen().iter().any(|seen| seen.method == "GET" && seen.path == "/v1/models"));
}

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() {
    let closed = Arc::new(AtomicBool::new(false));
    let told = closed.clone();
    let server = Scripted::start(move |_, _, line| {
        line.begin_events();
        line.event("one");
        line.wait_for_close();
        told.store(true, Ordering::SeqCst);
        false
    });
    let group = group(&[server.url()], 1, LONG);
    let ask = ask();
    let mut answer = group.run(|attempt| attempt.send(&ask)).await.unwrap();
    assert!(answer.piece().await.unwrap().is_some());
    drop(answer);
    let ended = async {
        while !closed.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("the server sees it");
}

#[tokio::test]
async fn a_server_that_shows_the_key_shows_it_to_nobody() {
    let server = Scripted::start(|before, seen, line| {
        let key = seen.header("authorization").unwrap_or_default();
        match before {
            0 => line.json(401, &format!("{{\"error\":\"{key} is no key\"}}")),
            1 => line.answer(200, "text/plain", &format!("x-echo: {key}\r\nx-other: 1\r\n"), &format!("{key}, {key}")),
            _ => {
                line.raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                for byte in key.bytes().chain(*b" a-secret") {
                    line.raw(&format!("1\r\n{}\r\n", char::from(byte)));
                }
                line.raw("0\r\n\r\n");
            }
        }
        true
    });
    let group = group(&[server.url()], 1, LONG);
    let refused = text(&group).await.unwrap_err();
    assert!(refused.to_string().contains("Bearer [key] is no key"), "{refused}");
    let ask = ask();
    let mut answer = group.run(|attempt| attempt.send(&ask)).await.unwrap();
    assert!(answer.headers.get("x-echo").is_none() && answer.headers.get("x-other").is_some(), "{:?}", answer.headers);
    assert_eq!(answer.whole(1 << 10).await.unwrap(), "Bearer [key], Bearer [key]");
    drop(answer);
    // What ends like the beginning of a key is not lost.
    assert_eq!(text(&group).await.unwrap(), "Bearer [key] a-secret");
}
