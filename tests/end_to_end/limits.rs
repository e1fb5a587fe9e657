//! Every limit, each with a guest that tries to break it, while another worker of the same host goes on answering.

use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::harness::{FLAVOURS, Host, Reply, guest};

/// A hostile worker `w` with limits, and a peaceful worker `calm` beside it.
fn hosts(limits: &str) -> impl Iterator<Item = (&'static str, Host)> + use<'_> {
    FLAVOURS.into_iter().map(move |flavour| {
        let config = format!(
            "[[workers]]\nname = \"w\"\nmain = {:?}\nlimits = {{ {limits} }}\n\n[[workers]]\nname = \"calm\"\nmain = {:?}\n",
            guest("hostile", flavour).display().to_string(),
            guest("echo", flavour).display().to_string(),
        );
        (flavour, Host::serve(&config))
    })
}

fn still_serves(host: &Host, flavour: &str) {
    let again = host.get("/");
    assert_eq!((again.status, again.text().as_str()), (200, "ok"), "{flavour}: the worker goes on");
    let other = host.send_to("calm.localhost", "GET", "/hello", &[], b"").read();
    assert_eq!(other.status, 200, "{flavour}: the other worker goes on");
}

fn assert_page(reply: &Reply, status: u16, code: u32, flavour: &str) {
    assert_eq!(reply.status, status, "{flavour}: {}", reply.text());
    let page = reply.json();
    assert_eq!(page["error"]["code"], json!(code), "{flavour}: {page}");
    assert_eq!(page["error"]["request_id"].as_str(), reply.header("x-request-id"), "{flavour}");
    assert!(page["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{flavour}: {page}");
}

#[test]
fn a_guest_that_spins_is_ended_by_its_cpu_time() {
    for (flavour, host) in hosts("cpu_ms = 300") {
        assert_page(&host.get("/spin"), 503, 1102, flavour);
        still_serves(&host, flavour);
    }
}

#[test]
fn a_guest_that_computes_between_waits_is_ended_by_its_cpu_time() {
    for (flavour, host) in hosts("cpu_ms = 300") {
        assert_page(&host.get("/hog?ms=1"), 503, 1102, flavour);
        still_serves(&host, flavour);
    }
}

#[test]
fn waiting_is_not_counted_as_cpu_time() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("echo", flavour), "limits = { cpu_ms = 400 }");
        let reply = host.get("/slow?ms=1500");
        assert_eq!((reply.status, reply.text().as_str()), (200, "slow"), "{flavour}");
    }
}

#[test]
fn a_guest_that_never_answers_is_ended_by_the_wall_clock() {
    for (flavour, host) in hosts("wall_ms = 5000") {
        assert_page(&host.get("/never"), 504, 1102, flavour);
        still_serves(&host, flavour);
    }
}

#[test]
fn a_body_without_end_is_ended_by_the_wall_clock() {
    for (flavour, host) in hosts("wall_ms = 6000") {
        let reply = host.get("/slow-drip?ms=50");
        assert_eq!(reply.status, 200, "{flavour}");
        assert!(!reply.complete && !reply.body.is_empty(), "{flavour}: {} bytes", reply.body.len());
        still_serves(&host, flavour);
    }
}

#[test]
fn memory_stops_growing_at_its_limit() {
    for (flavour, host) in hosts("memory_mb = 32") {
        let grown = host.get("/grow");
        assert_eq!(grown.status, 200, "{flavour}: {}", grown.text());
        let bytes: usize = grown.text().parse().unwrap();
        assert!((8 << 20..32 << 20).contains(&bytes), "{flavour}: {bytes}");
        assert_page(&host.get("/exhaust"), 503, 1102, flavour);
        still_serves(&host, flavour);
    }
}

#[test]
fn a_flood_of_log_lines_is_cut_and_ended() {
    for (flavour, host) in hosts("log_kb = 16, cpu_ms = 300") {
        assert_page(&host.get("/flood"), 503, 1102, flavour);
        still_serves(&host, flavour);
        host.wait_for_log("log limit of 16384 bytes");
        let log = host.log();
        let flooded: usize = log.lines().filter(|line| line.contains("flood flood")).map(str::len).sum();
        assert!(flooded < 64 << 10, "{flavour}: {flooded} bytes of log");
    }
}

#[test]
fn a_response_stops_at_its_size() {
    for (flavour, host) in hosts("response_mb = 1") {
        let reply = host.get("/endless");
        assert_eq!(reply.status, 200, "{flavour}");
        assert!(!reply.complete && reply.body.len() <= 1 << 20, "{flavour}: {} bytes", reply.body.len());
        let fitting = host.get("/big-body?bytes=1048576");
        assert!(fitting.complete && fitting.body.len() == 1 << 20, "{flavour}: {} bytes", fitting.body.len());
        still_serves(&host, flavour);
    }
}

#[test]
fn a_request_stops_at_its_size() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("echo", flavour), "limits = { request_mb = 1 }");
        let announced = host.send("POST", "/", &[], &vec![b'x'; (1 << 20) + 1]).read();
        assert_page(&announced, 413, 3006, flavour);
        // The same without saying how much will come.
        let mut stream = host.connect();
        let head = "POST / HTTP/1.1\r\nhost: w.localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..20 {
            if stream.write_all(piece.as_bytes()).is_err() {
                break;
            }
        }
        host.wait_for_log("Request body is larger than 1048576 bytes");
        assert_eq!(host.get("/").status, 200, "{flavour}");
    }
}

#[test]
fn subrequests_are_counted() {
    for flavour in FLAVOURS {
        let upstream = Host::worker(&guest("hello", flavour), "");
        let config = format!(
            "limits = {{ subrequests = 3 }}\noutbound = {{ allow_private = [\"127.0.0.1:{}\"] }}",
            upstream.port
        );
        let host = Host::worker(&guest("hostile", flavour), &config);
        let reply = host.get(&format!("/subrequests?url=http://127.0.0.1:{}/", upstream.port));
        assert_eq!(reply.json()["sent"], json!(3), "{flavour}: {}", reply.text());
        host.wait_for_log("limit of 3 sub-requests");
    }
}

#[test]
fn concurrent_requests_are_counted() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("echo", flavour), "limits = { concurrency = 2 }");
        let waiting: Vec<_> = (0..2).map(|_| host.send("GET", "/slow?ms=3000", &[], b"")).collect();
        std::thread::sleep(Duration::from_millis(800));
        let refused = host.get("/");
        assert_page(&refused, 503, 1105, flavour);
        assert_eq!(refused.header("retry-after"), Some("1"), "{flavour}");
        for exchange in waiting {
            assert_eq!(exchange.read().status, 200, "{flavour}: those within the limit are answered");
        }
        assert_eq!(host.get("/").status, 200, "{flavour}: a permit comes back");
    }
}

#[test]
fn faults_of_a_guest_stay_inside() {
    for (flavour, host) in hosts("cpu_ms = 5000") {
        for path in ["/panic", "/trap", "/overflow"] {
            let reply = host.get(path);
            assert_page(&reply, 500, 1101, flavour);
            let text = reply.text();
            assert!(!text.contains("wasm") && !text.contains("asked to"), "{flavour} {path}: {text}");
        }
        host.wait_for_log("the guest panics as it was asked to");
        still_serves(&host, flavour);
    }
}

#[test]
fn oversized_heads_of_answers_are_survived() {
    for (flavour, host) in hosts("cpu_ms = 5000") {
        for path in ["/big-headers", "/many-headers"] {
            let reply = host.get(path);
            assert!(reply.status == 200 || reply.status >= 500, "{flavour} {path}: {}", reply.status);
        }
        still_serves(&host, flavour);
    }
}
