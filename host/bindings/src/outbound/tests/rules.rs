//! What a policy's rules allow, what they refuse to mean, and what a URI is read as.

use super::*;
use crate::outbound::policy::rule_for;
use crate::outbound::target::{Host, Protocol};
use proptest::prelude::*;

fn target(uri: &str) -> Result<Target, Error> {
    Target::of(&mut Request::get(uri).body(()).unwrap())
}

/// Whether `policy` lets a request for `uri` go to `address`.
fn permits(policy: &Policy, uri: &str, address: &str) -> bool {
    let endpoint = target(uri).unwrap().endpoint;
    let address = SocketAddr::new(address.parse().unwrap(), endpoint.port);
    policy.permits(&endpoint, address).is_ok()
}

#[test]
fn rules_allow_what_they_name_and_no_more() {
    // rule, URI, address it resolves to, verdict
    let cases = [
        ("10.0.0.5", "http://10.0.0.5/", "10.0.0.5", true),
        ("10.0.0.5", "http://10.0.0.5:8080/", "10.0.0.5", true),
        ("10.0.0.5", "http://10.0.0.6/", "10.0.0.6", false),
        ("10.0.0.5", "http://db.internal/", "10.0.0.5", true),
        ("10.0.0.5:80", "http://10.0.0.5/", "10.0.0.5", true),
        ("10.0.0.5:80", "https://10.0.0.5/", "10.0.0.5", false),
        ("10.0.0.5:80", "http://10.0.0.5:81/", "10.0.0.5", false),
        ("10.0.0.5", "http://[::ffff:10.0.0.5]/", "::ffff:10.0.0.5", true),
        ("::ffff:10.0.0.5", "http://10.0.0.5/", "10.0.0.5", true),
        ("10.0.0.5", "http://[::10.0.0.5]/", "::10.0.0.5", false),
        ("10.0.0.5", "http://[64:ff9b::a00:5]/", "64:ff9b::a00:5", false),
        ("64:ff9b::/96", "http://[64:ff9b::a00:5]/", "64:ff9b::a00:5", true),
        ("10.0.0.0/8", "http://10.255.0.1/", "10.255.0.1", true),
        ("10.0.0.0/8", "http://11.0.0.1/", "192.168.0.1", false),
        ("10.0.0.0/8:443", "https://10.1.1.1/", "10.1.1.1", true),
        ("10.0.0.0/8:443", "http://10.1.1.1/", "10.1.1.1", false),
        ("0.0.0.0/0", "http://[::1]/", "::1", false),
        ("::1", "http://[::1]:9000/", "::1", true),
        ("[::1]", "http://[::1]:9000/", "::1", true),
        ("[::1]:9000", "http://[::1]:9000/", "::1", true),
        ("[::1]:9000", "http://[::1]:9001/", "::1", false),
        ("fd00::/8", "http://[fd12::1]/", "fd12::1", true),
        ("[fd00::/8]:80", "http://[fd12::1]/", "fd12::1", true),
        ("[fd00::/8]:80", "https://[fd12::1]/", "fd12::1", false),
        ("db.internal", "http://db.internal/", "10.9.9.9", true),
        ("db.internal", "http://DB.Internal./", "10.9.9.9", true),
        ("DB.internal.", "http://db.internal/", "10.9.9.9", true),
        ("db.internal", "http://db.internal.evil.example/", "10.9.9.9", false),
        ("db.internal", "http://x.db.internal/", "10.9.9.9", false),
        ("db.internal", "http://10.9.9.9/", "10.9.9.9", false),
        ("db.internal:5000", "http://db.internal:5000/", "10.9.9.9", true),
        ("db.internal:5000", "http://db.internal/", "10.9.9.9", false),
        ("localhost", "http://127.0.0.1/", "127.0.0.1", false),
        ("localhost", "http://localhost/", "127.0.0.1", true),
    ];
    for (rule, uri, address, expected) in cases {
        assert_eq!(permits(&policy(&[rule]), uri, address), expected, "{rule} for {uri} at {address}");
    }
    assert!(permits(&policy(&[]), "http://example.com:25565/", "93.184.215.14"), "public addresses need no rule");
    assert!(permits(&policy(&["10.0.0.1", "10.0.0.2"]), "http://10.0.0.2/", "10.0.0.2"), "every rule counts");
}

#[test]
fn broken_rules_say_what_to_write_instead() {
    let cases = [
        ("", "no destination"),
        ("http://10.0.0.5", "no destination"),
        ("*.internal", "no destination"),
        ("db internal", "no destination"),
        ("user@db", "no destination"),
        ("[10.0.0.5]:80", "no destination"),
        ("[::1", "no destination"),
        ("[::1]80", "no destination"),
        ("a..b", "no destination"),
        ("host/8", "no destination"),
        (":80", "no destination"),
        ("10.0.0.5:", "the port ``"),
        ("10.0.0.5:0", "the port `0`"),
        ("10.0.0.5:65536", "the port `65536`"),
        ("10.0.0.5:+80", "the port `+80`"),
        ("db:http", "the port `http`"),
        ("10.0.0.0/33", "the prefix length `33`"),
        ("10.0.0.0/", "the prefix length ``"),
        ("fd00::/129", "the prefix length `129`"),
        ("fd00::/8:443", "[fd00::/8]:443"),
        ("10.0.0.5/8", "\"10.0.0.0/8\" for the whole block or \"10.0.0.5\""),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001:80", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("010.0.0.1", "127.0.0.1"),
    ];
    for (rule, expected) in cases {
        let message = Policy::new(true, &[rule.to_owned()]).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(rule), "{rule:?}: {message}");
    }
}

#[test]
fn the_advised_rule_allows_the_destination() {
    let cases = [
        ("http://db.internal:5432/", "10.0.0.5", "db.internal:5432"),
        ("http://10.0.0.5/", "10.0.0.5", "10.0.0.5:80"),
        ("https://[fd00::1]/", "fd00::1", "[fd00::1]:443"),
        ("http://[::ffff:10.0.0.5]/", "10.0.0.5", "10.0.0.5:80"),
        ("http://2130706433/", "127.0.0.1", "127.0.0.1:80"),
        ("http://0x7f.1/", "127.0.0.1", "127.0.0.1:80"),
    ];
    for (uri, address, advised) in cases {
        let endpoint = target(uri).unwrap().endpoint;
        let resolved = SocketAddr::new(address.parse().unwrap(), endpoint.port);
        let denial = policy(&[]).permits(&endpoint, resolved).unwrap_err();
        assert_eq!(denial.advice(&endpoint), format!("[outbound]\nallow_private = [\"{advised}\"]"));
        assert!(permits(&policy(&[advised]), uri, address), "{advised} for {uri}");
    }
}

#[test]
fn a_disabled_policy_refuses_everything() {
    let off = Policy::new(false, &["10.0.0.5".to_owned()]).unwrap();
    assert!(!permits(&off, "http://10.0.0.5/", "10.0.0.5"));
    assert!(!permits(&off, "http://example.com/", "93.184.215.14"));
    let endpoint = target("http://example.com/").unwrap().endpoint;
    assert!(matches!(off.admit(&endpoint), Err(Error::HttpRequestDenied)));
    let denial = off.permits(&endpoint, SocketAddr::new(PUBLIC, 80)).unwrap_err();
    assert_eq!(denial.advice(&endpoint), "[outbound]\nenabled = true");
}

#[test]
fn the_filter_keeps_what_passes_in_canonical_form() {
    let endpoint = target("http://mixed.example/").unwrap().endpoint;
    let addresses = ["10.0.0.1", "::ffff:8.8.8.8", "8.8.8.8", "fe80::1", "2606:4700::1"]
        .map(|address| SocketAddr::new(address.parse().unwrap(), 80));
    let passed = policy(&[]).filter(&endpoint, &addresses).unwrap();
    assert_eq!(passed, ["8.8.8.8:80", "[2606:4700::1]:80"].map(|address| address.parse::<SocketAddr>().unwrap()));
    assert!(matches!(policy(&[]).filter(&endpoint, &addresses[..1]), Err(Error::HttpRequestDenied)));
    assert!(matches!(policy(&[]).filter(&endpoint, &[]), Err(Error::DestinationNotFound)));
}

#[test]
fn uris_are_read_narrowly() {
    let read = |uri: &str| target(uri).map(|target| target.endpoint.to_string());
    assert_eq!(read("http://Example.COM").unwrap(), "example.com:80");
    assert_eq!(read("https://example.com./x").unwrap(), "example.com:443");
    assert_eq!(read("http://example.com:/").unwrap(), "example.com:80");
    assert_eq!(read("http://[2606:4700::1]:8080/").unwrap(), "[2606:4700::1]:8080");
    for uri in [
        "http://user:secret@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:080a/",
        "http://exa%6dple.com/",
        "http://exa$mple.com/",
        "http://[fe80::1%25eth0]/",
        "http://.example.com/",
    ] {
        // Some of these the URI type itself refuses, which is as good.
        if let Ok(request) = Request::get(uri).body(()) {
            let read = Target::of(&mut { request });
            assert!(matches!(read, Err(Error::HttpRequestUriInvalid)), "{uri}: {read:?}");
        }
    }
    assert!(matches!(target("ftp://example.com/"), Err(Error::HttpProtocolError)));
    assert!(matches!(target("/relative"), Err(Error::HttpProtocolError)));
    let long = format!("http://example.com/{}", "x".repeat(20_000));
    assert!(matches!(target(&long), Err(Error::HttpRequestUriTooLong)));
    let mut tunnel = Request::connect("http://example.com:443/").body(()).unwrap();
    assert!(matches!(Target::of(&mut tunnel), Err(Error::HttpRequestMethodInvalid)));
}

#[test]
fn requests_are_addressed_for_their_connection() {
    let mut request = Request::get("http://Example.com:8080/a?b=c")
        .header("host", "other.example")
        .header("connection", "upgrade, x-secret")
        .header("upgrade", "websocket")
        .header("transfer-encoding", "chunked")
        .header("te", "gzip")
        .header("x-kept", "1")
        .body(())
        .unwrap();
    let target = Target::of(&mut request).unwrap();
    target.address(&mut request, Protocol::Http1);
    assert_eq!(request.uri(), "/a?b=c");
    let fields: Vec<_> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(fields, [("host", "example.com:8080"), ("x-kept", "1")]);
    target.address(&mut request, Protocol::Http2);
    assert_eq!(request.uri(), "http://example.com:8080/a?b=c");
    assert!(!request.headers().contains_key("host"));
    target.address(&mut request, Protocol::Http1);
    assert_eq!(request.uri(), "/a?b=c");

    let mut query_only = Request::get("http://example.com?q").body(()).unwrap();
    let target = Target::of(&mut query_only).unwrap();
    target.address(&mut query_only, Protocol::Http1);
    assert_eq!(query_only.uri(), "/?q");
}

#[test]
fn contradicting_and_oversized_headers_are_refused() {
    let mut twice = Request::post("http://example.com/")
        .header("content-length", "1")
        .header("content-length", "2")
        .body(())
        .unwrap();
    assert!(matches!(Target::of(&mut twice), Err(Error::HttpProtocolError)));
    let mut large = Request::get("http://example.com/").header("x-large", "x".repeat(70_000)).body(()).unwrap();
    assert!(matches!(Target::of(&mut large), Err(Error::HttpRequestHeaderSectionSize(Some(70_011)))));
}

proptest! {
    #[test]
    fn rules_are_parsed_or_refused(rule in "\\PC{0,40}") {
        // Nothing to assert but that it returns: the text comes from a file and may be anything.
        let _ = Policy::new(true, &[rule]);
    }

    #[test]
    fn rule_like_text_is_parsed_or_refused(rule in "[0-9a-fx.:/\\[\\]-]{0,30}") {
        let _ = Policy::new(true, &[rule]);
    }

    #[test]
    fn hosts_survive_being_written_and_read(host in "[a-zA-Z0-9._:\\[\\]-]{1,40}") {
        if let Some(read) = Host::parse(&host) {
            let again = Host::parse(&read.to_string());
            prop_assert_eq!(again.as_ref().map(ToString::to_string), Some(read.to_string()));
        }
    }

    #[test]
    fn a_block_rule_allows_its_addresses_only(bits: u32, prefix in 0u8..=32, probe: u32) {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let (base, probe) = (Ipv4Addr::from_bits(bits & mask), Ipv4Addr::from_bits(0x0a00_0000 | (probe >> 8)));
        let policy = policy(&[&format!("{base}/{prefix}")]);
        let inside = probe.to_bits() & mask == base.to_bits();
        prop_assert_eq!(permits(&policy, &format!("http://{probe}/"), &probe.to_string()), inside);
    }

    #[test]
    fn advice_always_parses_and_permits(bits: u128, port in 1u16.., secure: bool) {
        let address = IpAddr::from(std::net::Ipv6Addr::from_bits(bits)).to_canonical();
        let host = Host::Address(address);
        let endpoint = crate::outbound::target::Endpoint { secure, host, port };
        let policy = policy(&[&rule_for(&endpoint, address)]);
        prop_assert!(policy.permits(&endpoint, SocketAddr::new(address, port)).is_ok());
    }
}
