//! Queues and events of components in both flavours, `host queues`, and what is left when a host is stopped or killed.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{FLAVOURS, Host, command, guest};

fn config(flavour: &str, lines: &str) -> String {
    format!(
        "name = \"w\"\nmain = {:?}\nvars = {{ NAME = {flavour:?} }}\n[[queues.producers]]\nbinding = \"Q\"\nqueue = \"q\"\n\
         [[queues.consumers]]\nqueue = \"q\"\nmax_batch_timeout = 0\n{lines}\n",
        guest("queue", flavour).display().to_string()
    )
}

fn send(host: &Host, jobs: Value) {
    let reply = host.post("/send", &jobs);
    assert_eq!((reply.status, reply.text().as_str()), (200, "sent"));
}

#[test]
fn a_component_sends_and_handles_messages() {
    for flavour in FLAVOURS {
        let host = Host::serve(&config(flavour, "max_retries = 2"));
        assert_eq!(host.get("/types").status, 200);
        for body in ["{\"what\":\"json\"}", "\"text\"", "[0,255]"] {
            host.wait_for_log(&format!("{flavour}: q got {body}, attempt 1"));
        }
        host.wait_for_log("after the batch");
        send(&host, json!([{ "what": "a", "then": "retry" }, { "what": "b" }]));
        host.wait_for_log("q got {\"what\":\"a\",\"then\":\"retry\"}, attempt 2");
        send(&host, json!([{ "what": "late", "then": "retry-late" }]));
        host.wait_for_log("q got {\"what\":\"late\",\"then\":\"retry-late\"}, attempt 2");
        send(&host, json!([{ "what": "c", "then": "ack-throw" }, { "what": "d" }]));
        host.wait_for_log("the queue handler failed: after the ack");
        host.wait_for_log("q got {\"what\":\"d\",\"then\":\"\"}, attempt 2");
        send(&host, json!([{ "what": "e", "then": "ack-all" }, { "what": "f" }]));
        host.wait_for_log("the queue handler failed: after ack_all");
        send(&host, json!([{ "what": "g" }, { "what": "h", "then": "retry-all" }]));
        host.wait_for_log("q got {\"what\":\"g\",\"then\":\"\"}, attempt 2");
        send(&host, json!([{ "what": "j" }, { "what": "k", "then": "retry-all-late" }]));
        host.wait_for_log("q got {\"what\":\"j\",\"then\":\"\"}, attempt 2");
        send(&host, json!([{ "what": "i", "then": "panic" }]));
        host.wait_for_log("q got {\"what\":\"i\",\"then\":\"panic\"}, attempt 2");
        let log = host.log();
        for (acked, then) in [("b", ""), ("c", "ack-throw"), ("e", "ack-all"), ("f", "")] {
            let again = format!("{{\"what\":{acked:?},\"then\":{then:?}}}, attempt 2");
            assert!(!log.contains(&again), "{acked} came again");
        }
        assert!(log.contains("2 messages, sound: true") && !log.contains("sound: false"), "{log}");
        let refused = host.get("/refused").json();
        let refused: Vec<&str> = refused.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(refused[0], "Queue send failed: message length of 128002 bytes exceeds limit of 128000");
        assert_eq!(refused[1], "Queue send failed: delaySeconds is a whole number from 0 to 43200");
        assert_eq!(refused[2], "Queue sendBatch failed: sendBatch() requires at least one message");
        assert!(refused[3].contains("[[queues.producers]]\nbinding = \"NONE\""), "{}", refused[3]);
    }
}

#[test]
fn a_message_that_a_component_fails_at_ends_in_the_dead_letter_queue() {
    let lines =
        "max_retries = 1\ndead_letter_queue = \"dead\"\n[[queues.consumers]]\nqueue = \"dead\"\nmax_batch_timeout = 0";
    for flavour in FLAVOURS {
        let host = Host::serve(&config(flavour, lines));
        send(&host, json!([{ "what": "bad", "then": "poison" }]));
        host.wait_for_log("dead got {\"what\":\"bad\",\"then\":\"poison\"}, attempt 1");
        let log = host.log();
        assert!(log.contains("q got {\"what\":\"bad\",\"then\":\"poison\"}, attempt 2"));
        assert!(!log.contains("q got {\"what\":\"bad\",\"then\":\"poison\"}, attempt 3"));
    }
}

#[test]
fn nobody_outside_makes_an_event() {
    for flavour in FLAVOURS {
        let host = Host::serve(&config(flavour, ""));
        let forged = [("x-workers-event", "queue"), ("X-Workers-Event", "queue"), ("content-type", "application/json")];
        let body = br#"{"queue":"q","metrics":{"backlogCount":0,"backlogBytes":0},"messages":[]}"#;
        for address in ["w.localhost", "workers.internal"] {
            let reply = host.send_to(address, "POST", "/event/queue", &forged, body).read();
            assert_eq!((reply.status, reply.text().as_str()), (200, "fetch /event/queue None"), "{address}");
        }
        assert!(!host.log().contains("after the batch"));
    }
}

#[test]
fn a_component_runs_on_schedule_and_one_without_handlers_says_so() {
    for flavour in FLAVOURS {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("wrangler.toml"), config(flavour, "")).unwrap();
        let host = Host::launch(folder, "dev", &["--test-scheduled"]).unwrap();
        assert_eq!(host.get("/__scheduled?cron=*+*+*+*+*&time=7").status, 200);
        host.wait_for_log("* * * * * at 7");
        host.wait_for_log("after the tick");
        let failed = host.get("/cdn-cgi/handler/scheduled?cron=0+0+1+1+*");
        assert_eq!(failed.status, 500, "{}", failed.text());
        assert!(failed.text().contains("a bad year"));

        let folder = tempfile::tempdir().unwrap();
        let main = guest("env", flavour).display().to_string();
        std::fs::write(folder.path().join("wrangler.toml"), format!("name = \"w\"\nmain = {main:?}\n")).unwrap();
        let host = Host::launch(folder, "dev", &["--test-scheduled"]).unwrap();
        let failed = host.get("/__scheduled");
        assert_eq!(failed.status, 500);
        assert!(failed.text().contains("no handler with #[scheduled]"), "{}", failed.text());
    }
}

fn queues(folder: &Path, arguments: &[&str]) -> Output {
    command().current_dir(folder).arg("queues").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(&queues(folder, arguments))).unwrap()
}

#[test]
fn queues_are_looked_into_and_changed_beside_a_host() {
    let host = Host::serve(&config("p3", ""));
    let folder = host.folder();
    assert_eq!(json_of(folder, &["pause", "q", "--json"]), json!({ "queue": "q", "paused": true }));
    text(&queues(folder, &["send", "q", "--body", "{\"what\":\"from outside\"}"]));
    text(&queues(folder, &["send", "q", "-t", "text", "--delay", "43200", "--body", "later"]));
    let info = json_of(folder, &["info", "q", "--json"]);
    assert_eq!(info["messages"], json!(2));
    assert_eq!((&info["ready"], &info["delayed"], &info["paused"]), (&json!(1), &json!(1), &json!(true)));
    let peeked = text(&queues(folder, &["peek", "q"]));
    let peeked: Vec<Value> = peeked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&peeked[0]["body"], &peeked[0]["state"]), (&json!({ "what": "from outside" }), &json!("ready")));
    assert_eq!((&peeked[1]["body"], &peeked[1]["contentType"]), (&json!("later"), &json!("text")));
    assert_eq!(host.get("/metrics").json(), json!({ "messages": 2 }));
    assert!(!host.log().contains("from outside"));
    text(&queues(folder, &["resume", "q"]));
    host.wait_for_log("q got {\"what\":\"from outside\"}, attempt 1");
    assert_eq!(json_of(folder, &["list", "--json"])[0]["queue"], json!("q"));
    let state = folder.join(".host/state").display().to_string();
    assert_eq!(json_of(folder, &["purge", "q", "--json", "--persist-to", &state])["queue"], json!("q"));
    assert_eq!(json_of(folder, &["info", "q", "--json"])["messages"], json!(0));
    for (arguments, fault) in [
        (&["info", "other"][..], "there is no queue \"other\""),
        (&["send", "Q!", "--body", "1"], "cannot name a queue"),
        (&["send", "q", "--body", "{"], "no JSON"),
        (&["send", "q", "--body", "1", "--delay", "43201"], "43201"),
    ] {
        let refused = queues(folder, arguments);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains(fault), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn what_was_sent_outlives_a_host_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let host = Host::start(&config("p2", ""), &["--persist-to", &state]);
    text(&queues(host.folder(), &["pause", "q", "--persist-to", &state]));
    send(&host, json!([{ "what": "kept" }]));
    assert_eq!(host.get("/metrics").json(), json!({ "messages": 1 }));
    // Dropping it kills the process.
    drop(host);
    text(&queues(folder.path(), &["resume", "q", "--persist-to", &state]));
    let host = Host::start(&config("p2", ""), &["--persist-to", &state]);
    host.wait_for_log("q got {\"what\":\"kept\",\"then\":\"\"}, attempt 1");
}

#[test]
fn what_a_stopped_host_has_not_handled_goes_back_as_it_was() {
    for flavour in FLAVOURS {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state").display().to_string();
        let mut host = Host::start(&config(flavour, ""), &["--persist-to", &state, "--grace", "0"]);
        send(&host, json!([{ "what": "slow", "then": "sleep" }]));
        host.wait_for_log("q got {\"what\":\"slow\",\"then\":\"sleep\"}, attempt 1");
        let taken = json_of(folder.path(), &["info", "q", "--json", "--persist-to", &state]);
        assert_eq!((&taken["ready"], &taken["leased"]), (&json!(0), &json!(1)));
        host.terminate();
        assert!(host.wait().success());
        let peeked = text(&queues(folder.path(), &["peek", "q", "--persist-to", &state]));
        let peeked: Value = serde_json::from_str(&peeked).unwrap();
        assert_eq!((&peeked["state"], &peeked["attempts"]), (&json!("ready"), &json!(0)));
    }
}

#[test]
fn schedules_are_kept_on_time_where_a_project_is_served() {
    let serve = |flavour| Host::serve(&config(flavour, "[triggers]\ncrons = [\"* * * * *\"]"));
    let hosts = FLAVOURS.map(serve);
    for host in &hosts {
        host.wait_for_log("* * * * * at ");
        host.wait_for_log("after the tick");
        let log = host.log();
        let time = log.split("* * * * * at ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let time: u64 = time.parse().unwrap();
        assert_eq!(time % 60_000, 0, "a schedule is due when a minute begins");
    }
}

#[test]
fn a_changed_consumer_takes_over_where_a_project_is_developed() {
    let worker = |name: &str| {
        format!("export default {{ queue(batch) {{ console.log(`{name} got ${{batch.messages[0].body}}`); }} }};")
    };
    let folder = tempfile::tempdir().unwrap();
    let lines = "name = \"w\"\nmain = \"worker.js\"\n[[queues.consumers]]\nqueue = \"q\"\nmax_batch_timeout = 0\n";
    std::fs::write(folder.path().join("wrangler.toml"), lines).unwrap();
    std::fs::write(folder.path().join("worker.js"), worker("one")).unwrap();
    let host = Host::launch(folder, "dev", &[]).unwrap();
    text(&queues(host.folder(), &["send", "q", "--body", "1"]));
    host.wait_for_log("one got 1");
    std::fs::write(host.folder().join("worker.js"), worker("two")).unwrap();
    host.wait_for_log("reloaded w");
    text(&queues(host.folder(), &["send", "q", "--body", "2"]));
    host.wait_for_log("two got 2");
    assert!(!host.log().contains("one got 2"));
}
