//! Paths of requests: what a URL makes of them, their names decoded, and the one way to write them again.
//!
//! A path is taken as a URL takes it first (`\` is `/`, `.` and `..` are resolved, however they are written), then
//! decoded once, name by name. A file's own path is the decoded one encoded again, and a request for another spelling
//! is redirected to it, so that a file has one address. Runs of slashes become one: a redirect to `//host` would leave
//! the site.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// What JavaScript's `encodeURIComponent` encodes.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The path as a URL has it; none if it is no path, as that of `OPTIONS *` is none.
pub(crate) fn normalised(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let mut url = Url::parse("http://host/").ok()?;
    url.set_path(path);
    Some(url.path().to_owned())
}

/// The names of a normalised path decoded, with one slash between two. A name that is not UTF-8 when decoded, or not
/// well encoded, stays as it is.
pub(crate) fn decoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (index, name) in path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        match percent_decode_str(name).decode_utf8() {
            Ok(name_decoded) if is_encoded_well(name) => out.push_str(&name_decoded),
            _ => out.push_str(name),
        }
    }
    let mut after_slash = false;
    out.retain(|c| {
        let keep = c != '/' || !after_slash;
        after_slash = c == '/';
        keep
    });
    out
}

/// Whether every `%` has its two digits.
fn is_encoded_well(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// A decoded path encoded name by name.
pub(crate) fn encoded(path: &str) -> String {
    let names: Vec<String> = path.split('/').map(|name| utf8_percent_encode(name, COMPONENT).to_string()).collect();
    names.join("/")
}

/// The part of a decoded path below `base` (`/a/`), with its slash; none if the path is not there. The base itself is
/// `/`, with or without its slash.
pub(crate) fn below<'p>(path: &'p str, base: Option<&str>) -> Option<&'p str> {
    let Some(base) = base else { return Some(path) };
    let bare = base.strip_suffix('/').unwrap_or(base);
    match path.strip_prefix(bare)? {
        "" => Some("/"),
        rest if rest.starts_with('/') => Some(rest),
        _ => None,
    }
}

/// The public path of a path below `base`.
pub(crate) fn above(path: &str, base: Option<&str>) -> String {
    let base = base.unwrap_or_default();
    format!("{}{path}", base.strip_suffix('/').unwrap_or(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_urls_take_them() {
        let cases = [
            ("/a/../b", "/b"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/%2e%2e/%2E./x", "/x"),
            ("/a\\..\\b", "/b"),
            ("//host/x", "//host/x"),
            ("/a b", "/a%20b"),
            ("/?#", "/%3F%23"),
        ];
        for (path, expected) in cases {
            assert_eq!(normalised(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(normalised("*"), None);
        assert_eq!(normalised(""), None);
    }

    #[test]
    fn names_are_decoded_once_and_encoded_one_way() {
        let cases = [
            ("/%5Bx%5D", "/[x]", "/%5Bx%5D"),
            ("/[x]", "/[x]", "/%5Bx%5D"),
            ("/%255B", "/%5B", "/%255B"),
            ("/a%2Fb", "/a/b", "/a/b"),
            ("/a%2F%2Fb//c", "/a/b/c", "/a/b/c"),
            ("/%ZZ", "/%ZZ", "/%25ZZ"),
            ("/%FF", "/%FF", "/%25FF"),
            ("/b%C3%B2", "/bò", "/b%C3%B2"),
            ("/(a)!*'~", "/(a)!*'~", "/(a)!*'~"),
        ];
        for (path, name, again) in cases {
            assert_eq!(decoded(path), name, "{path}");
            assert_eq!(encoded(&decoded(path)), again, "{path}");
        }
    }

    #[test]
    fn a_base_ends_at_a_name() {
        assert_eq!(below("/a/b", Some("/a/")), Some("/b"));
        assert_eq!(below("/a/", Some("/a/")), Some("/"));
        assert_eq!(below("/a", Some("/a/")), Some("/"));
        assert_eq!(below("/ab", Some("/a/")), None);
        assert_eq!(below("/x", None), Some("/x"));
        assert_eq!(above("/b", Some("/a/")), "/a/b");
        assert_eq!(above("/b", None), "/b");
    }
}
