//! What a case cannot say: JavaScript workers that call other hosts, and clients that stop in the middle of a request.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::harness::{Host, PATIENCE};

const ENDLESS: &str = "[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"endless\"\ntask = \"text-generation\"\n\
                       backend = \"mock\"\nmock = { reply = \"word\", tokens = 100000, delay_ms = 20 }\n";

/// A worker of this source, with more lines for its table.
fn worker(source: &str, lines: &str) -> Host {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("worker.js"), source).unwrap();
    let config = format!("name = \"w\"\nmain = \"worker.js\"\n{lines}\n");
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    Host::launch(folder, "serve", &[]).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"))
}

/// A worker that may call `upstream`, whose address stands in the variable `UPSTREAM`.
fn caller(source: &str, upstream: &Host) -> Host {
    let port = upstream.port;
    let lines = format!(
        "vars = {{ UPSTREAM = \"http://127.0.0.1:{port}\" }}\noutbound = {{ allow_private = [\"127.0.0.1:{port}\"] }}"
    );
    worker(source, &lines)
}

#[test]
fn a_signal_ends_a_fetch_and_what_it_started_elsewhere() {
    let upstream = worker(
        "export default { async fetch(request, env) {
           const stream = request.url.endsWith('/stream');
           const output = await env.AI.run('endless', { prompt: 'a', stream });
           return stream ? new Response(output) : Response.json(output);
         } };",
        ENDLESS,
    );
    let host = caller(
        "const name = async (promise) => { try { await promise; return 'none'; } catch (error) { return error.name; } };
         export default { async fetch(request, env) {
           if (request.url.endsWith('/waiting'))
             return new Response(await name(fetch(`${env.UPSTREAM}/whole`, { signal: AbortSignal.timeout(200) })));
           const controller = new AbortController();
           const response = await fetch(`${env.UPSTREAM}/stream`, { signal: controller.signal });
           const reader = response.body.getReader();
           await reader.read();
           controller.abort();
           const seen = await name((async () => { while (!(await reader.read()).done); })());
           // The request goes on, so that it is not its end which ends the fetch.
           console.log('aborted');
           await new Promise((resolve) => setTimeout(resolve, 600000));
           return new Response(seen);
         } };",
        &upstream,
    );
    assert_eq!(host.get("/waiting").text(), "TimeoutError");
    upstream.wait_for_log("generation ended");
    let going_on = host.send("GET", "/reading", &[], b"");
    host.wait_for_log("aborted");
    let start = std::time::Instant::now();
    while upstream.log().matches("generation ended").count() < 2 {
        assert!(start.elapsed() < PATIENCE, "the upstream goes on:\n{}", upstream.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(going_on);
}

#[test]
fn an_answer_from_the_network_keeps_its_cookies_apart_and_its_body_whole() {
    let upstream = worker(
        "export default { async fetch(request) {
           const headers = new Headers({ 'x-from': 'upstream' });
           headers.append('set-cookie', 'a=1; Path=/, x');
           headers.append('set-cookie', 'b=2');
           if (request.url.endsWith('/moved')) return new Response(null, { status: 302, headers: { location: '/' } });
           return new Response('x'.repeat(1000000), { headers });
         } };",
        "",
    );
    let host = caller(
        "export default { async fetch(request, env) {
           const response = await fetch(`${env.UPSTREAM}/moved`);
           if (new URL(request.url).pathname === '/passed') return response;
           const text = await response.text();
           return Response.json({
             cookies: response.headers.getSetCookie(), redirected: response.redirected, length: text.length,
           });
         } };",
        &upstream,
    );
    let seen = host.get("/read").json();
    assert_eq!(seen, json!({ "cookies": ["a=1; Path=/, x", "b=2"], "redirected": true, "length": 1_000_000 }));
    let passed = host.get("/passed");
    let cookies: Vec<_> = passed.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v).collect();
    assert_eq!(cookies, ["a=1; Path=/, x", "b=2"]);
    assert_eq!((passed.body.len(), passed.header("content-length")), (1_000_000, Some("1000000")));
    assert_eq!(passed.header("x-from"), Some("upstream"));
    assert!(passed.complete);
}

#[test]
fn a_body_that_is_still_arriving_is_read_and_answered_piece_by_piece() {
    let host = worker("export default { async fetch(request) { return new Response(request.body); } };", "");
    let mut stream = host.connect();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: w.localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .unwrap();
    let mut answer = String::new();
    let mut read_until = |stream: &mut std::net::TcpStream, text: &str| {
        let mut piece = [0; 4096];
        while !answer.contains(text) {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "no {text:?} in {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    };
    read_until(&mut stream, "first");
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    read_until(&mut stream, "second");
    read_until(&mut stream, "0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_before_the_answer_ends_what_the_worker_waits_for() {
    let host = worker(
        "export default { async fetch(request, env) {
           if (request.url.endsWith('/fine')) return new Response('fine');
           return Response.json(await env.AI.run('endless', { prompt: 'a' }));
         } };",
        ENDLESS,
    );
    let request = host.send("GET", "/", &[], b"");
    host.wait_for_log("generation started");
    assert!(!host.log().contains("generation ended"));
    drop(request);
    host.wait_for_log("generation ended");
    assert_eq!(host.get("/fine").text(), "fine");
}

/// More requests than a worker has instances: the others wait, and each instance has one at a time.
#[test]
fn requests_wait_for_an_instance_and_share_none() {
    let host = worker(
        "let under_way = 0;
         export default { async fetch(request) {
           under_way++;
           const most = under_way;
           await new Promise((resolve) => setTimeout(resolve, 300));
           under_way--;
           return Response.json({ most });
         } };",
        "",
    );
    let replies: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..150).map(|_| scope.spawn(|| host.get("/"))).collect();
        asked.into_iter().map(|reply| reply.join().unwrap()).collect()
    });
    for reply in replies {
        assert_eq!((reply.status, reply.json()), (200, json!({ "most": 1 })));
    }
}

/// A short body is handed over whole, so one that breaks off must not be handed over at all.
#[test]
fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    let host = worker(
        "export default { async fetch(request) {
           console.log(`handled ${JSON.stringify(await request.text())}`);
           return new Response('done');
         } };",
        "",
    );
    let head = "POST / HTTP/1.1\r\nhost: w.localhost\r\nconnection: close\r\ncontent-length: 10\r\n\r\n";
    let mut stream = host.connect();
    stream.write_all(format!("{head}half").as_bytes()).unwrap();
    // The answer could still be read.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.contains("done"), "{answer}");
    assert_eq!(host.send("POST", "/", &[], b"all of it.").read().text(), "done");
    host.wait_for_log("handled \"all of it.\"");
    assert_eq!(host.log().matches("handled \"").count(), 1, "{}", host.log());
}
