//! Routes: which requests a worker answers.
//!
//! A pattern is a host and a path, each with at most one wildcard: at the start of the host, at the end of the path
//! (Cloudflare, "Workers routes", matching behaviour). Of several routes that match, the most specific wins; see
//! [`Route::specificity`].

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A host and path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Which hosts it matches.
    pub host: HostPattern,
    /// Which paths it matches.
    pub path: PathPattern,
}

/// Which hosts a route matches. Hosts are in lower case and have no port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `example.com`: this host alone.
    Exact(String),
    /// `*.example.com`: hosts below this one, not the host itself.
    Below(String),
    /// `*example.com`: this host and those below it. As on Cloudflare, where a route ends at its zone, a name that
    /// merely ends with the same letters does not match.
    AtOrBelow(String),
    /// `*`: every host.
    Any,
}

/// Which paths a route matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/about`: this path alone.
    Exact(String),
    /// `/images/*`: paths that start so.
    Prefix(String),
}

/// Why a text is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A scheme other than HTTP's.
    #[error("a route's scheme is `http` or `https`, or none is written")]
    Scheme,
    /// Nothing before the path.
    #[error("a route starts with a host, as in `example.com/*`, or with `*`")]
    NoHost,
    /// `example.com:8080`.
    #[error("a route names no port: the host listens on one port for every worker")]
    Port,
    /// A character or label that no host name has.
    #[error("`{0}` is no host name")]
    Host(String),
    /// A wildcard that is not at the start of the host or at the end of the path.
    #[error("`*` may stand only at the start of the host and at the end of the path")]
    Wildcard,
    /// A query or fragment.
    #[error("a route matches a host and a path, not a query or fragment")]
    Query,
    /// A space or control character in the path.
    #[error("a route's path holds no spaces or control characters")]
    Path,
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => rest,
            Some((scheme, _)) if !scheme.contains('/') => return Err(RouteError::Scheme),
            _ => text,
        };
        if rest.contains(['?', '#']) {
            return Err(RouteError::Query);
        }
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        Ok(Route { host: host_pattern(host)?, path: path_pattern(path)? })
    }
}

fn host_pattern(text: &str) -> Result<HostPattern, RouteError> {
    let host = text.to_ascii_lowercase();
    if host.is_empty() {
        return Err(RouteError::NoHost);
    }
    let (wildcard, name) = match host.strip_prefix('*') {
        Some("") => return Ok(HostPattern::Any),
        Some(rest) => (true, rest),
        None => (false, host.as_str()),
    };
    if name.contains('*') {
        return Err(RouteError::Wildcard);
    }
    if name.contains(':') {
        return Err(RouteError::Port);
    }
    let (below, name) = match name.strip_prefix('.') {
        Some(rest) if wildcard => (true, rest),
        _ => (false, name),
    };
    if !is_host(name) {
        return Err(RouteError::Host(name.chars().take(80).filter(|c| !c.is_control()).collect()));
    }
    let name = name.to_owned();
    Ok(match (wildcard, below) {
        (true, true) => HostPattern::Below(name),
        (true, false) => HostPattern::AtOrBelow(name),
        (false, _) => HostPattern::Exact(name),
    })
}

fn path_pattern(text: &str) -> Result<PathPattern, RouteError> {
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(RouteError::Path);
    }
    let pattern = match text.strip_suffix('*') {
        Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
        None => PathPattern::Exact(text.to_owned()),
    };
    let (PathPattern::Prefix(fixed) | PathPattern::Exact(fixed)) = &pattern;
    if fixed.contains('*') { Err(RouteError::Wildcard) } else { Ok(pattern) }
}

/// Whether a text in lower case is a host name (RFC 1123; underscores are in use) or an IPv4 address.
pub(crate) fn is_host(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// How specific a route is: the greater, the more. Ordered by the host first, then the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    exact_host: bool,
    host: usize,
    exact_path: bool,
    path: usize,
}

impl Route {
    /// Every path of one host, as a custom domain has it.
    pub(crate) fn whole_host(host: HostPattern) -> Self {
        Route { host, path: PathPattern::Prefix("/".into()) }
    }

    /// Whether a request belongs to this route. `host` is the authority as the request has it, so it may carry a port
    /// and a trailing dot and be in any case; `path` has no query.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        let path_matches = match &self.path {
            PathPattern::Exact(exact) => path == exact || (path.is_empty() && exact == "/"),
            PathPattern::Prefix(prefix) => path.starts_with(prefix.as_str()) || (path.is_empty() && prefix == "/"),
        };
        path_matches && self.host.matches(host)
    }

    /// The order in which routes are tried: an exact host before a wildcard, a longer host before a shorter one, then
    /// an exact path before a prefix, then the longer path.
    pub fn specificity(&self) -> Specificity {
        let (exact_host, host) = match &self.host {
            HostPattern::Exact(name) => (true, name.len()),
            HostPattern::Below(name) => (false, name.len() + 1),
            HostPattern::AtOrBelow(name) => (false, name.len()),
            HostPattern::Any => (false, 0),
        };
        let (exact_path, path) = match &self.path {
            PathPattern::Exact(path) => (true, path.len()),
            PathPattern::Prefix(path) => (false, path.len()),
        };
        Specificity { exact_host, host, exact_path, path }
    }
}

impl HostPattern {
    /// Whether an authority, with or without a port, belongs to this pattern.
    pub fn matches(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let below = |name: &str| {
            let dot = host.len().checked_sub(name.len() + 1);
            dot.is_some_and(|dot| {
                dot > 0
                    && host.as_bytes().get(dot) == Some(&b'.')
                    && host.get(dot + 1..).is_some_and(|end| end.eq_ignore_ascii_case(name))
            })
        };
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host.eq_ignore_ascii_case(name),
            HostPattern::Below(name) => below(name),
            HostPattern::AtOrBelow(name) => host.eq_ignore_ascii_case(name) || below(name),
        }
    }
}

/// The host of an authority: without port and trailing dot. An IPv6 address keeps its brackets.
fn host_of(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let host = &authority[..end];
    host.strip_suffix('.').unwrap_or(host)
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Exact(name) => f.write_str(name)?,
            HostPattern::Below(name) => write!(f, "*.{name}")?,
            HostPattern::AtOrBelow(name) => write!(f, "*{name}")?,
        }
        match &self.path {
            PathPattern::Exact(path) => f.write_str(path),
            PathPattern::Prefix(path) => write!(f, "{path}*"),
        }
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_and_paths_match() {
        let cases = [
            ("example.com/*", "example.com", "/a/b", true),
            ("example.com/*", "EXAMPLE.com:8787", "/", true),
            ("example.com/*", "example.com.", "", true),
            ("example.com/*", "www.example.com", "/", false),
            ("https://example.com/a*", "example.com", "/ab", true),
            ("example.com/a", "example.com", "/a/", false),
            ("example.com", "example.com", "/", true),
            ("example.com", "example.com", "/a", false),
            ("*.example.com/*", "www.example.com", "/", true),
            ("*.example.com/*", "example.com", "/", false),
            ("*.example.com/*", ".example.com", "/", false),
            ("*example.com/*", "example.com", "/", true),
            ("*example.com/*", "a.b.example.com", "/", true),
            ("*example.com/*", "notexample.com", "/", false),
            ("*/api/*", "[::1]:80", "/api/x", true),
            ("*/api/*", "anything", "/", false),
            ("example.com/*", "exämple.com", "/", false),
            ("*.m.com/*", "ü.m.com", "/", true),
        ];
        for (pattern, host, path, expected) in cases {
            assert_eq!(route(pattern).matches(host, path), expected, "{pattern} {host} {path}");
        }
    }

    #[test]
    fn the_most_specific_route_comes_last_in_order() {
        let order = [
            "*/*",
            "*/a*",
            "*/a",
            "*example.com/*",
            "*.example.com/*",
            "*.a.example.com/*",
            "a.com/*",
            "a.com/b*",
            "a.com/b",
        ];
        let found: Vec<Specificity> = order.iter().map(|text| route(text).specificity()).collect();
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    }

    #[test]
    fn what_is_no_route_says_why() {
        let cases = [
            ("", RouteError::NoHost),
            ("/*", RouteError::NoHost),
            ("ftp://example.com/", RouteError::Scheme),
            ("example.com:80/*", RouteError::Port),
            ("a.*.com/*", RouteError::Wildcard),
            ("example.com/*/a", RouteError::Wildcard),
            ("example.com/?a=1", RouteError::Query),
            ("exa mple.com/", RouteError::Host("exa mple.com".into())),
            ("example.com/a b", RouteError::Path),
            ("**/", RouteError::Wildcard),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Route>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_route_prints_as_it_is_written() {
        for text in ["*/*", "example.com/a*", "*.example.com/", "*example.com/b"] {
            assert_eq!(route(text).to_string(), text);
        }
    }
}
