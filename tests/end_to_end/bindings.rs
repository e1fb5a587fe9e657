//! Variables, secrets and outbound requests as a worker sees them.

use serde_json::json;

use crate::harness::{FLAVOURS, Host, guest};

#[test]
fn a_worker_sees_what_it_was_granted_and_nothing_else() {
    for flavour in FLAVOURS {
        let host = Host::worker(
            &guest("env", flavour),
            "vars = { GREETING = \"hello\", LIST = [1, 2] }\n[ai]\nbinding = \"AI\"",
        );
        let seen = host.get("/").json();
        assert_eq!(seen["bindings"], json!({ "AI": "ai", "GREETING": "text", "LIST": "json" }), "{flavour}");
        assert_eq!(seen["vars"], json!({ "GREETING": "hello", "LIST": [1, 2] }), "{flavour}");
        assert_eq!(seen["secrets"], json!({}), "{flavour}");
    }
}

#[test]
fn a_missing_binding_is_explained_with_the_lines_to_add() {
    for flavour in FLAVOURS {
        let host = Host::worker(&guest("env", flavour), "[ai]\nbinding = \"AI\"");
        let message = host.get("/missing?name=MODELS&kind=ai").text();
        assert!(
            message.contains("[ai]") && message.contains("MODELS") && message.contains("wrangler.toml"),
            "{message}"
        );
        let message = host.get("/missing?name=TOKEN&kind=secret").text();
        assert!(message.contains(".dev.vars") && message.contains("TOKEN"), "{flavour}: {message}");
    }
}

#[test]
fn private_addresses_are_denied_unless_allowed() {
    for flavour in FLAVOURS {
        let upstream = Host::worker(&guest("hello", flavour), "");
        let url = format!("http://127.0.0.1:{}/", upstream.port);
        let denied = Host::worker(&guest("fetch", flavour), "");
        for target in
            [url.clone(), format!("http://localhost:{}/", upstream.port), "http://169.254.169.254/".to_owned()]
        {
            let reply = denied.get(&format!("/?url={target}")).json();
            assert!(reply["error"].is_string() && reply["status"].is_null(), "{flavour} {target}: {reply}");
        }
        denied.wait_for_log("allow_private");
        let allowed = Host::worker(
            &guest("fetch", flavour),
            &format!("outbound = {{ allow_private = [\"127.0.0.1:{}\"] }}", upstream.port),
        );
        let reply = allowed.get(&format!("/?url={url}")).json();
        assert_eq!(reply, json!({ "status": 200, "body": "Hello, world!\n" }), "{flavour}");
        let many = allowed.get(&format!("/many?n=20&url={url}")).json();
        assert_eq!(many["statuses"]["200"], json!(20), "{flavour}: {many}");
    }
}
