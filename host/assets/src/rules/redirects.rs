//! `_redirects`: where paths lead instead.
//!
//! A line says `source destination [status]`. Sources without placeholders that stand before any with are looked up;
//! the others are tried in their order. Status 200 is no redirect: another file answers at the path.

use std::collections::{HashMap, HashSet};

use host_config::HtmlHandling;

use super::pattern::{self, Allowed, Pattern};
use super::{Warnings, lines};

/// How many sources without placeholders a file may hold.
const MOST_STATIC: usize = 2000;

/// How many sources with placeholders a file may hold.
const MOST_DYNAMIC: usize = 100;

const STATUSES: [u16; 6] = [200, 301, 302, 303, 307, 308];

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// A path, or a URL with a host.
    pub(crate) to: String,
    /// 200 for another file at the same path, or the status of a redirect.
    pub(crate) status: u16,
}

/// The rules of a file.
#[derive(Debug, Default)]
pub(crate) struct Redirects {
    fixed: HashMap<String, Redirect>,
    dynamic: Vec<(Pattern, Redirect)>,
}

impl Redirects {
    /// Where a path leads, if anywhere.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Redirect> {
        if let Some(redirect) = self.fixed.get(path) {
            return Some(redirect.clone());
        }
        self.dynamic.iter().find_map(|(pattern, redirect)| {
            let to = pattern::fill(&redirect.to, &pattern.matches(host, path)?);
            Some(Redirect { to: local(to.trim()), status: redirect.status })
        })
    }
}

/// A destination whose placeholders are filled in. One on this site stays there: runs of slashes, with which it would
/// name another host, become one.
fn local(to: &str) -> String {
    let scheme = to.split_once("://").map(|(scheme, _)| scheme);
    let external = scheme.is_some_and(|scheme| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    });
    if external {
        return to.to_owned();
    }
    let mut out = String::with_capacity(to.len());
    for character in to.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

/// Reads the file.
pub(crate) fn parse(text: &str, html: HtmlHandling, warnings: &mut Warnings) -> Redirects {
    let mut redirects = Redirects::default();
    let mut seen = HashSet::new();
    let (mut fixed, mut dynamic) = (0, 0);
    for (number, line) in lines(text, warnings) {
        let (source, redirect) = match rule(line, html) {
            Ok(rule) => rule,
            Err(message) => {
                warnings.add(number, format!("ignored: {message}"));
                continue;
            }
        };
        // What stands below a rule with placeholders is tried after it, and so is no longer looked up.
        let looked_up = dynamic == 0 && !pattern::is_dynamic(&source);
        if looked_up {
            fixed += 1;
            if fixed > MOST_STATIC {
                let message = format!("ignored: a file holds at most {MOST_STATIC} rules without placeholders");
                warnings.add(number, message);
                continue;
            }
        } else {
            dynamic += 1;
            if dynamic > MOST_DYNAMIC {
                let message = format!(
                    "this and all that follows is ignored: a file holds at most {MOST_DYNAMIC} rules with placeholders or \
                     after one with"
                );
                warnings.add(number, message);
                break;
            }
        }
        if !seen.insert(source.clone()) {
            warnings.add(number, format!("ignored: there is a rule for `{source}` already"));
        } else if looked_up {
            redirects.fixed.insert(source, redirect);
        } else {
            match Pattern::new(&source) {
                Some(pattern) => redirects.dynamic.push((pattern, redirect)),
                None => warnings.add(number, "ignored: `*` stands twice, or two placeholders share a name"),
            }
        }
    }
    redirects
}

/// One line.
fn rule(line: &str, html: HtmlHandling) -> Result<(String, Redirect), String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    // `/a /b#part` is a fragment, `/a /b # why` a comment.
    if let Some(comment) = words.iter().skip(2).position(|word| word.starts_with('#')) {
        words.truncate(comment + 2);
    }
    let (from, to, status) = match words.as_slice() {
        [from, to] => (*from, *to, "302"),
        [from, to, status] => (*from, *to, *status),
        words => return Err(format!("expected `source destination [status]`, found {} words", words.len())),
    };
    let from = pattern::url(from, Allowed { host: false, port: false, query: false })?;
    let to = pattern::url(to, Allowed { host: true, port: true, query: true })?;
    let status = status
        .parse::<u16>()
        .ok()
        .filter(|status| STATUSES.contains(status))
        .ok_or_else(|| format!("the status is 200, 301, 302, 303, 307 or 308, not `{status}`"))?;
    let to_index = to.ends_with("/index") || to.ends_with("/index.html");
    let circle = from.ends_with("/*") || (from.ends_with('/') && html != HtmlHandling::None);
    if to_index && circle && !pattern::has_host(&to) {
        return Err("it would lead in a circle: the file of the destination answers at the source's own path".into());
    }
    if status == 200 && pattern::has_host(&to) {
        return Err("status 200 takes a path: another host's answer is not fetched".into());
    }
    Ok((from, Redirect { to, status }))
}

#[cfg(test)]
mod tests {
    use super::super::collect;
    use super::*;

    fn find(text: &str, path: &str) -> Option<(String, u16)> {
        let (rules, warnings) =
            collect("_redirects", |warnings| parse(text, HtmlHandling::AutoTrailingSlash, warnings));
        assert!(warnings.is_empty(), "{warnings:?}");
        rules.find("host", path).map(|redirect| (redirect.to, redirect.status))
    }

    #[test]
    fn sources_lead_to_their_destinations() {
        let text = "# comment\n/a /b\n/c https://example.com/d?x=1#y 301 # why\n\
                    /users/:id/* /u/:splat?id=:id 308\n/rewrite/:page /pages/:page 200\n/last /late\n/old/* /:splat";
        let to = |to: &str, status| Some((to.to_owned(), status));
        assert_eq!(find(text, "/a"), to("/b", 302));
        assert_eq!(find(text, "/c"), to("https://example.com/d?x=1#y", 301));
        assert_eq!(find(text, "/users/7/x/y"), to("/u/x/y?id=7", 308));
        assert_eq!(find(text, "/rewrite/me"), to("/pages/me", 200));
        assert_eq!(find(text, "/last"), to("/late", 302));
        assert_eq!(find(text, "/A"), None);
        assert_eq!(find(text, "/a/"), None);
        // Not `//evil.example`, which is another host.
        assert_eq!(find(text, "/old//evil.example"), to("/evil.example", 302));
    }

    #[test]
    fn the_first_rule_wins_and_lookups_come_first() {
        let text = "/a/x /looked-up\n/a/* /star\n/a/y /never";
        assert_eq!(find(text, "/a/x").unwrap().0, "/looked-up");
        assert_eq!(find(text, "/a/y").unwrap().0, "/star");
    }

    #[test]
    fn what_means_nothing_is_named_by_its_line() {
        let text = "/a\n/a /b 302 x\n/a b\n/a http://example.com/\n/a /b 404\n/a https://example.com/ 200\n\
                    https://example.com/a /b\n/* /index.html 200\n/ /index.html\n/*/* /x\n/a /b\n/a /c\n";
        let (rules, warnings) =
            collect("_redirects", |warnings| parse(text, HtmlHandling::AutoTrailingSlash, warnings));
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12].map(|line| format!("_redirects:{line}"));
        let lines: Vec<&str> = warnings.iter().map(|warning| warning.split(": ").next().unwrap()).collect();
        assert_eq!(lines, expected);
        assert_eq!(rules.find("h", "/a").unwrap().to, "/b");
        let (_, warnings) = collect("_redirects", |warnings| parse("/ /index.html", HtmlHandling::None, warnings));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn the_numbers_of_rules_are_bounded() {
        let fixed: String = (0..2001).map(|n| format!("/f{n} /x\n")).collect();
        let dynamic: String = (0..103).map(|n| format!("/d{n}/* /y\n")).collect();
        let (rules, warnings) = collect("_redirects", |warnings| {
            parse(&format!("{fixed}{dynamic}"), HtmlHandling::AutoTrailingSlash, warnings)
        });
        assert_eq!((rules.fixed.len(), rules.dynamic.len()), (2000, 100));
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("_redirects:2001: ") && warnings[1].starts_with("_redirects:2102: "));
    }
}
