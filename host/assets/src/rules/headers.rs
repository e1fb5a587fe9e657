//! `_headers`: headers set and taken away, by path.
//!
//! A line that starts with a path, or with `https://` and a host, begins a rule; the lines below it say `Name: value`
//! or `! Name`. All rules that match apply, in the order of the file: the first to set a header replaces what the
//! response had, later ones add to it.

use std::collections::HashSet;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::pattern::{self, Allowed, Pattern};
use super::{Warnings, lines};

/// How many rules a file may hold.
const MOST_RULES: usize = 100;

/// Headers that say where a body ends. Were they anything but the truth, the next response on the connection would be
/// misread.
const FRAMING: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::TE,
    header::UPGRADE,
];

/// The rules of a file.
#[derive(Debug, Default)]
pub(crate) struct HeaderRules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    source: String,
    pattern: Pattern,
    line: usize,
    /// Names and values, with placeholders.
    set: Vec<(HeaderName, String)>,
    unset: Vec<HeaderName>,
}

impl HeaderRules {
    /// Applies the rules to a response. `host` has no port; `path` is the request's own.
    pub(crate) fn apply(&self, host: &str, path: &str, headers: &mut HeaderMap) {
        let mut set_before: HashSet<&HeaderName> = HashSet::new();
        for rule in &self.0 {
            let Some(matched) = rule.pattern.matches(host, path) else { continue };
            for name in &rule.unset {
                headers.remove(name);
            }
            for (name, value) in &rule.set {
                let Ok(value) = HeaderValue::from_str(&pattern::fill(value, &matched)) else { continue };
                if set_before.insert(name) {
                    headers.insert(name, value);
                } else {
                    headers.append(name, value);
                }
            }
        }
    }
}

/// Reads the file.
pub(crate) fn parse(text: &str, warnings: &mut Warnings) -> HeaderRules {
    let mut rules: Vec<Rule> = Vec::new();
    let mut rule: Option<Rule> = None;
    for (number, line) in lines(text, warnings) {
        if !is_source(line) {
            directive(line, number, rule.as_mut(), warnings);
            continue;
        }
        finish(rule.take(), &mut rules, warnings);
        if rules.len() >= MOST_RULES {
            warnings
                .add(number, format!("this and all that follows is ignored: a file holds at most {MOST_RULES} rules"));
            return HeaderRules(rules);
        }
        let url = pattern::url(line, Allowed { host: true, port: true, query: false });
        match url.map(|source| (Pattern::new(&source), source)) {
            Ok((Some(pattern), source)) => {
                rule = Some(Rule { source, pattern, line: number, set: Vec::new(), unset: Vec::new() });
            }
            Ok((None, _)) => warnings.add(number, "ignored: `*` stands twice, or two placeholders share a name"),
            Err(error) => warnings.add(number, format!("ignored: {error}")),
        }
    }
    finish(rule, &mut rules, warnings);
    HeaderRules(rules)
}

/// Whether a line looks like a path or a URL rather than a header.
fn is_source(line: &str) -> bool {
    line.starts_with('/')
        || line.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains(char::is_whitespace))
}

/// Keeps a rule that says something. A second rule for a path takes the place of the first.
fn finish(rule: Option<Rule>, rules: &mut Vec<Rule>, warnings: &mut Warnings) {
    let Some(rule) = rule else { return };
    if rule.set.is_empty() && rule.unset.is_empty() {
        warnings.add(rule.line, "ignored: no header is named for this path");
        return;
    }
    match rules.iter_mut().find(|other| other.source == rule.source) {
        Some(other) => *other = rule,
        None => rules.push(rule),
    }
}

/// `Name: value` or `! Name`.
fn directive(line: &str, number: usize, rule: Option<&mut Rule>, warnings: &mut Warnings) {
    let Some(rule) = rule else {
        warnings.add(number, "ignored: a path must come before its headers");
        return;
    };
    let (name, value) = match (line.split_once(':'), line.strip_prefix("! ")) {
        (Some((name, value)), _) => (name.trim(), Some(value.trim())),
        (None, Some(name)) => (name.trim(), None),
        (None, None) => {
            warnings.add(number, "ignored: expected `Name: value`, or `! Name` to take a header away");
            return;
        }
    };
    let Ok(name) = name.parse::<HeaderName>() else {
        warnings.add(number, "ignored: this is no header's name");
        return;
    };
    if FRAMING.contains(&name) {
        warnings.add(number, format!("ignored: `{name}` is the server's to set"));
        return;
    }
    match value {
        None => rule.unset.push(name),
        Some("") => warnings.add(number, format!("ignored: `{name}` has no value")),
        Some(value) if HeaderValue::from_str(value).is_err() => {
            warnings.add(number, format!("ignored: the value of `{name}` holds a character that no header can"));
        }
        Some(value) => match rule.set.iter_mut().find(|(other, _)| *other == name) {
            Some((_, before)) => *before = format!("{before}, {value}"),
            None => rule.set.push((name, value.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::collect;
    use super::*;

    fn apply(text: &str, host: &str, path: &str) -> Vec<String> {
        let (rules, warnings) = collect("_headers", |warnings| parse(text, warnings));
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"x\""));
        rules.apply(host, path, &mut headers);
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_are_set_added_to_and_taken_away() {
        let text = "# a comment\n/a/*\n  X-One: 1\n  X-One: 2\n  Link: <:splat>; rel=x\n/a/b\n  ! ETag\n  X-One: 3\n";
        assert_eq!(apply(text, "h", "/a/c"), ["etag: \"x\"", "link: <c>; rel=x", "x-one: 1, 2"]);
        assert_eq!(apply(text, "h", "/a/b"), ["link: <b>; rel=x", "x-one: 1, 2", "x-one: 3"]);
        assert_eq!(apply(text, "h", "/x"), ["etag: \"x\""]);
        assert_eq!(apply("/*\n ETag: \"y\"\n", "h", "/"), ["etag: \"y\""]);
    }

    #[test]
    fn a_rule_may_name_a_host() {
        let text = "https://:who.example.com/*\n  X-Who: :who\n";
        assert_eq!(apply(text, "me.example.com", "/x"), ["etag: \"x\"", "x-who: me"]);
        assert_eq!(apply(text, "example.com", "/x"), ["etag: \"x\""]);
    }

    #[test]
    fn the_second_rule_for_a_path_counts() {
        assert_eq!(apply("/a\n X: 1\n/b\n Y: 1\n/a\n X: 2\n", "h", "/a"), ["etag: \"x\"", "x: 2"]);
    }

    #[test]
    fn what_means_nothing_is_named_by_its_line() {
        let text = "X: 1\n/a\n/b\n  nothing\n  a b: c\n  X:\n  Content-Length: 3\n  X: ok\nhttp://h/\n/*/*\n  Y: 1\n";
        let (rules, warnings) = collect("_headers", |warnings| parse(text, warnings));
        assert_eq!(rules.0.len(), 1);
        let lines: Vec<&str> = warnings.iter().map(|warning| warning.split(": ").next().unwrap()).collect();
        let expected = [1, 4, 5, 6, 7, 9, 10, 11].map(|line| format!("_headers:{line}"));
        let mut found: Vec<&str> = lines.clone();
        found.retain(|line| *line != "_headers:2");
        assert_eq!(found, expected);
        assert!(lines.contains(&"_headers:2"), "{warnings:?}");
    }

    #[test]
    fn the_hundred_and_first_rule_is_ignored() {
        let text: String = (1..=102).map(|n| format!("/{n}\n X: {n}\n")).collect();
        let (rules, warnings) = collect("_headers", |warnings| parse(&text, warnings));
        assert_eq!(rules.0.len(), 100);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("_headers:201: "), "{warnings:?}");
    }

    #[test]
    fn a_long_line_is_ignored() {
        let text = format!("/a\n X: {}\n Y: 1\n", "x".repeat(2000));
        let (rules, warnings) = collect("_headers", |warnings| parse(&text, warnings));
        assert_eq!(rules.0[0].set.len(), 1);
        assert!(warnings[0].starts_with("_headers:2: "), "{warnings:?}");
    }
}
