//! The sources of rules: paths with `:placeholders` and a `*`, alone or behind `https://` and a host.

use std::collections::HashMap;

use regex::Regex;
use url::Url;

/// What matched, by the name of the placeholder; that of `*` is `splat`.
pub(crate) type Matched = HashMap<String, String>;

/// A source of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    /// Whether the pattern starts with a host.
    with_host: bool,
}

impl Pattern {
    /// Reads a source, as [`url`] leaves it; none if two placeholders share a name, or `*` stands twice.
    ///
    /// A placeholder takes a name of the path, or a label of the host; `*` takes anything. Matching takes time in
    /// proportion to the path, whatever the pattern.
    pub(crate) fn new(source: &str) -> Option<Self> {
        let with_host = source.starts_with(SCHEME);
        let host_end = if with_host { SCHEME.len() + source[SCHEME.len()..].find('/').unwrap_or(0) } else { 0 };
        let mut regex = String::from("^");
        let mut rest = source;
        while let Some(character) = rest.chars().next() {
            let at = source.len() - rest.len();
            rest = &rest[character.len_utf8()..];
            match (character, placeholder(rest)) {
                ('*', _) => regex.push_str("(?P<splat>.*)"),
                (':', Some(name)) => {
                    let part = if at < host_end { "[^/.]+" } else { "[^/]+" };
                    regex.push_str(&format!("(?P<{name}>{part})"));
                    rest = &rest[name.len()..];
                }
                _ => regex.push_str(&regex::escape(character.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push('$');
        Some(Pattern { regex: Regex::new(&regex).ok()?, with_host })
    }

    /// Whether a request belongs to the pattern, and what its placeholders are then. `host` has no port; the scheme of a
    /// request does not count.
    pub(crate) fn matches(&self, host: &str, path: &str) -> Option<Matched> {
        let full;
        let tested = if self.with_host {
            full = format!("{SCHEME}{host}{path}");
            &full
        } else {
            path
        };
        let captures = self.regex.captures(tested)?;
        let names = self.regex.capture_names().flatten();
        Some(names.filter_map(|name| Some((name.to_owned(), captures.name(name)?.as_str().to_owned()))).collect())
    }
}

const SCHEME: &str = "https://";

/// The name that a text begins with: a letter, then letters, digits and `_`.
fn placeholder(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| &text[..end])
}

/// Whether a source has placeholders or a `*`.
pub(crate) fn is_dynamic(source: &str) -> bool {
    source.contains('*') || source.match_indices(':').any(|(at, _)| placeholder(&source[at + 1..]).is_some())
}

/// A text with its placeholders filled in, in one pass: what is filled in is not looked at again. One that has not
/// matched anything stays as it is written.
pub(crate) fn fill(text: &str, matched: &Matched) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(':') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        out.push_str(before);
        match placeholder(after).and_then(|name| Some((name, matched.get(name)?))) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &after[name.len()..];
            }
            None => {
                out.push(':');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// What may stand in a URL of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// A host, behind `https://`; a path alone may then lack its slash.
    pub(crate) host: bool,
    /// A port behind the host.
    pub(crate) port: bool,
    /// A query and a fragment, which are dropped otherwise.
    pub(crate) query: bool,
}

/// Reads a path, or a URL with a host, of a rule, as a URL parser writes it.
pub(crate) fn url(text: &str, allowed: Allowed) -> Result<String, String> {
    let (host, path) = match text.strip_prefix(SCHEME) {
        Some(rest) => rest.trim_start_matches('/').split_once('/').unwrap_or((rest.trim_start_matches('/'), "")),
        None => ("", text),
    };
    if !host.is_empty() && !allowed.host {
        return Err(format!("`{text}` has a host; only a path may stand here"));
    }
    let has_port =
        host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if has_port && !allowed.port {
        return Err(format!("`{text}` names a port, which rules do not match"));
    }
    if host.is_empty() && allowed.host && !path.starts_with('/') {
        return Err(format!("`{text}` starts with neither `/` nor `{SCHEME}`"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    // A scheme that browsers give no meaning of its own: the path is normalised and no more.
    let url =
        Url::parse(&format!("relative://{slash}{path}")).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    let part = |mark: &str, part: Option<&str>| match part {
        Some(part) if allowed.query && !part.is_empty() => format!("{mark}{part}"),
        _ => String::new(),
    };
    let scheme = if host.is_empty() { "" } else { SCHEME };
    Ok(format!("{scheme}{host}{}{}{}", url.path(), part("?", url.query()), part("#", url.fragment())))
}

/// Whether a URL of a rule has a host.
pub(crate) fn has_host(url: &str) -> bool {
    url.starts_with(SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(pattern: &str, host: &str, path: &str) -> Option<Vec<(String, String)>> {
        let mut matched: Vec<_> = Pattern::new(pattern).unwrap().matches(host, path)?.into_iter().collect();
        matched.sort();
        Some(matched)
    }

    #[test]
    fn placeholders_take_names_and_a_star_takes_anything() {
        let pairs = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(matched("/a/:b/c/*", "", "/a/x/c/y/z"), pairs(&[("b", "x"), ("splat", "y/z")]));
        assert_eq!(matched("/a/:b", "", "/a/x/y"), None);
        assert_eq!(matched("/a/:b", "", "/a/"), None);
        assert_eq!(matched("/p/:id/:id_2", "", "/p/1/2"), pairs(&[("id", "1"), ("id_2", "2")]));
        assert_eq!(matched("/a.b", "", "/aXb"), None);
        assert_eq!(matched("/time:30", "", "/time:30"), pairs(&[]));
        assert_eq!(
            matched("https://:sub.example.com/*", "www.example.com", "/x"),
            pairs(&[("splat", "x"), ("sub", "www")])
        );
        assert_eq!(matched("https://:sub.example.com/*", "a.b.example.com", "/x"), None);
        assert!(Pattern::new("/*/x/*").is_none());
        assert!(Pattern::new("/:a/:a").is_none());
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let matched: Matched = [("a".to_owned(), ":b".to_owned()), ("b".to_owned(), "x".to_owned())].into();
        assert_eq!(fill("/:a/:b/:c:1:", &matched), "/:b/x/:c:1:");
    }

    #[test]
    fn urls_of_rules() {
        let (from, to) =
            (Allowed { host: false, port: false, query: false }, Allowed { host: true, port: true, query: true });
        assert_eq!(url("/a/../b c?x#y", from).unwrap(), "/b%20c");
        assert_eq!(url("a", from).unwrap(), "/a");
        assert_eq!(url("/:a/*", from).unwrap(), "/:a/*");
        assert_eq!(url("/b?x=1#y", to).unwrap(), "/b?x=1#y");
        assert_eq!(url("https://example.com:80/b?x#y", to).unwrap(), "https://example.com:80/b?x#y");
        assert_eq!(url("https://example.com", to).unwrap(), "https://example.com/");
        assert!(url("http://example.com/", to).is_err());
        assert!(url("b", to).is_err());
        assert!(url("https://example.com/", from).is_err());
        assert!(url("https://example.com:80/", Allowed { host: true, port: false, query: false }).is_err());
    }
}
