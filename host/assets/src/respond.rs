//! A request answered: redirects, then files, then what there is instead, then headers.
//!
//! The order is that of Cloudflare's asset worker: a rule of `_redirects` comes before any file, a path's meaning before
//! the method, the one spelling of a path before the file, and `_headers` apply to whatever came of it. All of it runs
//! on a blocking thread, since each step may look at the disk.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;

use host_config::{HtmlHandling, NotFoundHandling, Turn};
use http::header::{
    ACCEPT_RANGES, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use http::{Method, Response, StatusCode};
use url::Url;

use crate::etag::{Etags, Look};
use crate::html::{Intent, resolve};
use crate::range::{Wanted, wanted};
use crate::rules::{Redirect, RuleCache, Rules, Warning};
use crate::tree::{Found, Tree, View};
use crate::{Asked, Body, paths};

const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");

/// Everything that requests share.
#[derive(Clone)]
pub(crate) struct Server {
    settings: host_config::Assets,
    tree: Arc<Tree>,
    rules: Arc<RuleCache>,
    etags: Arc<Etags>,
    pub(crate) navigation_prefers_assets: bool,
}

/// A request, for another thread.
pub(crate) struct Owned {
    method: Method,
    /// Without a port.
    host: String,
    /// With its port.
    authority: String,
    /// As a URL has it; none if it is no path.
    path: Option<String>,
    query: Option<String>,
    if_none_match: Vec<String>,
    range: Option<String>,
    if_range: Option<String>,
    authorized: bool,
    /// Whether `not_found_handling` counts.
    fallback: bool,
}

impl Owned {
    pub(crate) fn new(asked: &Asked<'_>, fallback: bool) -> Self {
        let text = |name: HeaderName| asked.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let all = asked.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        // Two ranges in two headers are two ranges.
        let one_range = asked.headers.get_all(RANGE).iter().count() == 1;
        Owned {
            method: asked.method.clone(),
            host: without_port(asked.host).to_ascii_lowercase(),
            authority: asked.host.to_owned(),
            path: paths::normalised(asked.path),
            query: asked.query.filter(|query| !query.is_empty()).map(str::to_owned),
            if_none_match: all.map(str::to_owned).collect(),
            range: text(RANGE).filter(|_| one_range),
            if_range: text(IF_RANGE),
            authorized: asked.headers.contains_key(AUTHORIZATION),
            fallback,
        }
    }

    fn query(&self) -> String {
        self.query.as_ref().map_or_else(String::new, |query| format!("?{query}"))
    }
}

/// `example.com:80` and `[::1]:80` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    match HeaderValue::from_str(location) {
        Ok(location) => {
            let mut response = empty(status);
            response.headers_mut().insert(LOCATION, location);
            response
        }
        Err(_) => empty(StatusCode::NOT_FOUND),
    }
}

impl Server {
    pub(crate) fn open(settings: &host_config::Assets) -> io::Result<Self> {
        let tree = Tree::open(&settings.directory)?;
        let rules = RuleCache::new(&tree, settings.html_handling);
        Ok(Server {
            settings: settings.clone(),
            tree: Arc::new(tree),
            rules: Arc::new(rules),
            etags: Arc::default(),
            navigation_prefers_assets: true,
        })
    }

    pub(crate) fn turn(&self, path: &str) -> Turn {
        let normalised = paths::normalised(path);
        self.settings.run_worker_first.turn(normalised.as_deref().unwrap_or(path))
    }

    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.rules.last().warnings.clone()
    }

    fn base(&self) -> Option<&str> {
        self.settings.base_path.as_deref()
    }

    /// Whether a path is at or below the base.
    fn is_below_base(&self, path: &str) -> bool {
        paths::below(&paths::decoded(path), self.base()).is_some()
    }

    /// The response for a request that nothing answers.
    pub(crate) fn nothing(&self, asked: &Owned) -> Response<Body> {
        let mut response = empty(StatusCode::NOT_FOUND);
        if let Some(path) = asked.path.as_deref().filter(|path| self.is_below_base(path)) {
            self.rules.last().headers.apply(&asked.host, path, response.headers_mut());
        }
        response
    }

    /// The response, or none where there is nothing. Reads from the disk.
    pub(crate) fn respond(&self, asked: &Owned) -> Option<Response<Body>> {
        let path = asked.path.as_deref().filter(|path| self.is_below_base(path))?;
        let rules = self.rules.current(&self.tree);
        let mut response = match rules.redirects.find(&asked.host, path) {
            Some(Redirect { to, status: 200 }) => {
                let rewritten = base_url(asked, path)?.join(&to).ok().map(|url| url.path().to_owned());
                let found = rewritten.and_then(|path| self.file(asked, &path, &rules));
                // The rule has claimed the path: it is not the worker's any more.
                found.unwrap_or_else(|| empty(StatusCode::NOT_FOUND))
            }
            Some(Redirect { to, status }) => {
                let location = location(asked, path, &to)?;
                redirect(StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND), &location)
            }
            None => self.file(asked, path, &rules)?,
        };
        rules.headers.apply(&asked.host, path, response.headers_mut());
        Some(response)
    }

    /// What a path, as a URL has it, means.
    fn file(&self, asked: &Owned, path: &str, rules: &Rules) -> Option<Response<Body>> {
        let public = paths::decoded(path);
        let relative = paths::below(&public, self.base())?;
        let not_found = if asked.fallback { self.settings.not_found_handling } else { NotFoundHandling::None };
        let view = View { tree: &self.tree, ignored: &rules.ignored, etags: &self.etags };
        let intent = resolve(relative, self.settings.html_handling, not_found, &view);
        if !matches!(intent, Intent::Nothing) && !matches!(asked.method, Method::GET | Method::HEAD) {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        let (found, status, own) = match intent {
            Intent::Nothing => return None,
            Intent::Redirect(to) => {
                let to = paths::above(&to, self.base());
                return Some(self.to(asked, &self.own_root(&to).unwrap_or(to)));
            }
            Intent::Serve(found) => (found, StatusCode::OK, self.own_root(&public).unwrap_or(public)),
            Intent::Fallback { file, missing: true } => (file, StatusCode::NOT_FOUND, public),
            Intent::Fallback { file, missing: false } => (file, StatusCode::OK, public),
        };
        if paths::encoded(&own) != path {
            return Some(self.to(asked, &own));
        }
        Some(self.send(asked, &found, status).unwrap_or_else(|error| {
            tracing::warn!("the asset {} cannot be read: {error}", found.path.display());
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }))
    }

    /// A redirect to a decoded path.
    fn to(&self, asked: &Owned, path: &str) -> Response<Body> {
        let location = format!("{}{}", paths::encoded(path), asked.query());
        redirect(StatusCode::TEMPORARY_REDIRECT, &location)
    }

    /// The one spelling of the base where `index.html` answers at it: with a slash, or without where slashes are dropped.
    fn own_root(&self, public: &str) -> Option<String> {
        let base = self.base()?;
        let bare = base.strip_suffix('/')?;
        let at_root = public == base || public == bare;
        match self.settings.html_handling {
            HtmlHandling::AutoTrailingSlash | HtmlHandling::ForceTrailingSlash if at_root => Some(base.to_owned()),
            HtmlHandling::DropTrailingSlash if at_root => Some(bare.to_owned()),
            _ => None,
        }
    }

    /// A file, or the part of it that is wanted.
    fn send(&self, asked: &Owned, found: &Found, status: StatusCode) -> io::Result<Response<Body>> {
        let (mut file, metadata): (File, Metadata) = found.open()?;
        let look = Look::of(&metadata);
        let etag = self.etags.of(&found.path, &mut file, look)?;
        let mut response = empty(status);
        let headers = response.headers_mut();
        describe(headers, asked, found, &etag);
        if asked.if_none_match.iter().any(|tags| lists(tags, &etag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let partial = status == StatusCode::OK && asked.method == Method::GET;
        let range =
            asked.range.as_deref().filter(|_| partial && asked.if_range.as_ref().is_none_or(|tag| *tag == etag));
        let (start, length) = match wanted(range, look.size) {
            Wanted::Whole => (0, look.size),
            Wanted::Part { start, length } => {
                headers.insert(CONTENT_RANGE, text(format!("bytes {start}-{}/{}", start + length - 1, look.size)));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                (start, length)
            }
            Wanted::Unsatisfiable => {
                headers.insert(CONTENT_RANGE, text(format!("bytes */{}", look.size)));
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                response.headers_mut().remove(CONTENT_TYPE);
                return Ok(response);
            }
        };
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        if asked.method == Method::GET {
            *response.body_mut() = Body::read(file, start, length)?;
        }
        Ok(response)
    }
}

/// The headers of a file.
fn describe(headers: &mut HeaderMap, asked: &Owned, found: &Found, etag: &str) {
    headers.insert(ETAG, text(etag.to_owned()));
    if let Some(kind) = content_type(found) {
        headers.insert(CONTENT_TYPE, text(kind));
    }
    if !asked.authorized && asked.range.is_none() {
        headers.insert(CACHE_CONTROL, CACHE);
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// A header's value of characters that were chosen here.
fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// The type by the name's ending; none for an ending that is not known, as on Cloudflare.
fn content_type(found: &Found) -> Option<String> {
    let ending = Path::new(&found.name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let kind = match ending.to_ascii_lowercase().as_str() {
        // What the registered lists of types lack, or give to something older.
        "map" => "application/json".to_owned(),
        "ts" | "mts" => "video/mp2t".to_owned(),
        _ => mime_guess::from_ext(ending).first()?.essence_str().to_owned(),
    };
    Some(if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind })
}

/// Whether a list of entity tags holds one, weakly compared.
fn lists(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The request's own URL. Its scheme is not known here; where it shows, it is `https`, as on Cloudflare.
fn base_url(asked: &Owned, path: &str) -> Option<Url> {
    let mut url =
        Url::parse(&format!("https://{}/", asked.authority)).or_else(|_| Url::parse("https://localhost/")).ok()?;
    url.set_path(path);
    Some(url)
}

/// The `Location` of a redirect: the request's query is kept unless the destination has its own, and the host is left
/// out where it is the request's.
fn location(asked: &Owned, path: &str, to: &str) -> Option<String> {
    let base = base_url(asked, path)?;
    let mut url = base.join(to).ok()?;
    if url.query().is_none_or(str::is_empty) {
        url.set_query(asked.query.as_deref());
    }
    let same_site = url.origin() == base.origin();
    Some(match same_site {
        true => {
            let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
            let fragment = url.fragment().map_or_else(String::new, |fragment| format!("#{fragment}"));
            format!("{}{query}{fragment}", url.path())
        }
        false => url.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        for tags in ["\"a\"", "W/\"a\"", "\"x\", W/\"a\"", "*", " \"a\" ,\"b\""] {
            assert!(lists(tags, "\"a\""), "{tags}");
        }
        for tags in ["\"b\"", "a", "", "w/\"a\""] {
            assert!(!lists(tags, "\"a\""), "{tags}");
        }
    }

    #[test]
    fn ports_are_no_part_of_a_host() {
        assert_eq!(without_port("a.example:80"), "a.example");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("a.example"), "a.example");
    }
}
