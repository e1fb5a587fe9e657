//! Sends a request to the handler of its path.
//!
//! Small on purpose: a worker has a handful of routes, so they are compared one by one. Where several fit, the one whose
//! first differing part is more exact wins, whatever the order they were added in.

use crate::{Env, Method, Request, Response, Result};
use futures_util::future::{FutureExt, LocalBoxFuture};
use std::collections::HashMap;
use std::future::Future;

type Handler<D> = Box<dyn Fn(Request, RouteContext<D>) -> LocalBoxFuture<'static, Result<Response>>>;

/// Routes by method and path.
///
/// A pattern's part is literal, `:name` for any one part, or, at its end, `*name` for all that remains. A path without a
/// route answers 404, a method without one 405.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// async fn main(req: Request, env: Env) -> Result<Response> {
///     Router::new()
///         .get("/", |_req, _ctx| Response::ok("home"))
///         .get_async("/items/:id", |_req, ctx| async move {
///             Response::ok(format!("item {}", ctx.param("id").map_or("?", String::as_str)))
///         })
///         .run(req, env)
///         .await
/// }
/// # }
/// ```
pub struct Router<D = ()> {
    routes: Vec<Route<D>>,
    data: D,
}

struct Route<D> {
    /// None for any method.
    method: Option<Method>,
    parts: Vec<Part>,
    handler: Handler<D>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Param(String),
    Rest(String),
}

/// What a handler of a [`Router`] gets besides the request.
///
/// ```
/// # use host_sdk::{Response, Router};
/// let router = Router::with_data("Lisbon").get("/", |_req, ctx| Response::ok(ctx.data));
/// # drop(router);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct RouteContext<D = ()> {
    /// What [`Router::with_data`] was given.
    pub data: D,
    /// The worker's bindings.
    pub env: Env,
    params: RouteParams,
}

/// The parts of a path that a pattern names, percent-decoded.
///
/// ```
/// assert_eq!(host_sdk::RouteParams::default().get("id"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteParams(HashMap<String, String>);

impl RouteParams {
    /// The part called `name` in the pattern.
    ///
    /// ```
    /// assert_eq!(host_sdk::RouteParams::default().get("id"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }
}

impl<D> RouteContext<D> {
    /// The part called `name` in the route's pattern.
    ///
    /// ```
    /// # use host_sdk::{Response, Router};
    /// let router = Router::new().get("/greet/:name", |_req, ctx| {
    ///     Response::ok(format!("hello {}", ctx.param("name").map_or("", String::as_str)))
    /// });
    /// # drop(router);
    /// ```
    pub fn param(&self, name: &str) -> Option<&String> {
        self.params.get(name)
    }
}

impl Router<()> {
    /// A router whose handlers share nothing.
    ///
    /// ```
    /// let router = host_sdk::Router::new();
    /// # drop(router);
    /// ```
    pub fn new() -> Self {
        Self::with_data(())
    }
}

impl Default for Router<()> {
    fn default() -> Self {
        Self::new()
    }
}

/// One method of [`Router`] for each HTTP method, and its twin for async handlers.
macro_rules! routes {
    ($($method:ident $name:ident $name_async:ident $example:literal;)*) => {
        $(
            #[doc = concat!("Answers `", $example, "` of a path.")]
            ///
            /// ```
            /// # use host_sdk::{Response, Router};
            #[doc = concat!("let router = Router::new().", stringify!($name), "(\"/items\", |_req, _ctx| Response::empty());")]
            /// # drop(router);
            /// ```
            pub fn $name<F>(self, pattern: &str, handler: F) -> Self
            where
                F: Fn(Request, RouteContext<D>) -> Result<Response> + 'static,
            {
                self.on(Some(Method::$method), pattern, move |req, ctx| std::future::ready(handler(req, ctx)))
            }

            #[doc = concat!("Answers `", $example, "` of a path with an async handler.")]
            ///
            /// ```
            /// # use host_sdk::{Response, Router};
            #[doc = concat!("let router = Router::new().", stringify!($name_async), "(\"/items\", |_req, _ctx| async { Response::empty() });")]
            /// # drop(router);
            /// ```
            pub fn $name_async<F, T>(self, pattern: &str, handler: F) -> Self
            where
                F: Fn(Request, RouteContext<D>) -> T + 'static,
                T: Future<Output = Result<Response>> + 'static,
            {
                self.on(Some(Method::$method), pattern, handler)
            }
        )*
    };
}

impl<D: 'static> Router<D> {
    /// A router that hands `data` to the handler it chooses.
    ///
    /// ```
    /// let router = host_sdk::Router::with_data(vec![1, 2, 3]);
    /// # drop(router);
    /// ```
    pub fn with_data(data: D) -> Self {
        Self { routes: Vec::new(), data }
    }

    routes! {
        Get get get_async "GET";
        Head head head_async "HEAD";
        Post post post_async "POST";
        Put put put_async "PUT";
        Patch patch patch_async "PATCH";
        Delete delete delete_async "DELETE";
        Options options options_async "OPTIONS";
    }

    /// Answers the methods of a path that have no route of their own.
    ///
    /// ```
    /// # use host_sdk::{Response, Router};
    /// let router = Router::new().or_else_any_method("/*rest", |_req, _ctx| Response::error("no such page", 404));
    /// # drop(router);
    /// ```
    pub fn or_else_any_method<F>(self, pattern: &str, handler: F) -> Self
    where
        F: Fn(Request, RouteContext<D>) -> Result<Response> + 'static,
    {
        self.on(None, pattern, move |req, ctx| std::future::ready(handler(req, ctx)))
    }

    /// Answers the methods of a path that have no route of their own, with an async handler.
    ///
    /// ```
    /// # use host_sdk::{Response, Router};
    /// let router = Router::new().or_else_any_method_async("/*rest", |_req, _ctx| async { Response::ok("any") });
    /// # drop(router);
    /// ```
    pub fn or_else_any_method_async<F, T>(self, pattern: &str, handler: F) -> Self
    where
        F: Fn(Request, RouteContext<D>) -> T + 'static,
        T: Future<Output = Result<Response>> + 'static,
    {
        self.on(None, pattern, handler)
    }

    fn on<F, T>(mut self, method: Option<Method>, pattern: &str, handler: F) -> Self
    where
        F: Fn(Request, RouteContext<D>) -> T + 'static,
        T: Future<Output = Result<Response>> + 'static,
    {
        let handler: Handler<D> = Box::new(move |req, ctx| handler(req, ctx).boxed_local());
        self.routes.push(Route { method, parts: parse(pattern), handler });
        self
    }

    /// Answers `req` by the route that fits it best.
    ///
    /// # Errors
    /// Those of the handler.
    ///
    /// ```no_run
    /// # use host_sdk::*;
    /// # async fn example(req: Request, env: Env) -> Result<Response> {
    /// Router::new().get("/", |_req, _ctx| Response::ok("home")).run(req, env).await
    /// # }
    /// ```
    pub async fn run(self, req: Request, env: Env) -> Result<Response> {
        let path = req.path();
        let method = req.method();
        let mut fitting: Vec<(&Route<D>, RouteParams)> =
            self.routes.iter().filter_map(|route| Some((route, matched(&route.parts, &path)?))).collect();
        fitting.sort_by_cached_key(|(route, _)| (rank(&route.parts), route.method.is_none()));
        let chosen = fitting.iter().position(|(route, _)| route.method.as_ref().is_none_or(|wanted| *wanted == method));
        if let Some(index) = chosen {
            let (route, params) = fitting.swap_remove(index);
            return (route.handler)(req, RouteContext { data: self.data, env, params }).await;
        }
        if fitting.is_empty() {
            return Response::error("Not Found", 404);
        }
        let mut allowed: Vec<&str> =
            fitting.iter().filter_map(|(route, _)| route.method.as_ref().map(Method::as_str)).collect();
        allowed.sort_unstable();
        allowed.dedup();
        let mut response = Response::error("Method Not Allowed", 405)?;
        response.headers_mut().set("allow", &allowed.join(", "))?;
        Ok(response)
    }
}

impl<D> std::fmt::Debug for Router<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter().map(|route| (&route.method, &route.parts));
        f.debug_list().entries(routes).finish()
    }
}

fn parse(pattern: &str) -> Vec<Part> {
    parts_of(pattern)
        .map(|part| match (part.strip_prefix(':'), part.strip_prefix('*')) {
            (Some(name), _) => Part::Param(name.to_owned()),
            (_, Some(name)) => Part::Rest(name.to_owned()),
            _ => Part::Literal(part.to_owned()),
        })
        .collect()
}

/// The parts between slashes. A slash at the end makes no part, so that `/a/` and `/a` are one path.
fn parts_of(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(move |_| !path.is_empty())
}

fn matched(pattern: &[Part], path: &str) -> Option<RouteParams> {
    let parts: Vec<&str> = parts_of(path).collect();
    let mut params = HashMap::new();
    for (index, part) in pattern.iter().enumerate() {
        match part {
            Part::Rest(name) => {
                let rest = parts.get(index..)?.join("/");
                params.insert(name.clone(), decoded(&rest));
                return Some(RouteParams(params));
            }
            Part::Param(name) => {
                params.insert(name.clone(), decoded(parts.get(index)?));
            }
            Part::Literal(text) => {
                let found = parts.get(index)?;
                if *found != text && decoded(found) != *text {
                    return None;
                }
            }
        }
    }
    (parts.len() == pattern.len()).then_some(RouteParams(params))
}

/// Smaller is more exact.
fn rank(parts: &[Part]) -> Vec<u8> {
    let rank_of = |part: &Part| match part {
        Part::Literal(_) => 0,
        Part::Param(_) => 1,
        Part::Rest(_) => 2,
    };
    parts.iter().map(rank_of).collect()
}

/// Percent-decodes a part; one that does not decode to UTF-8 stays as it is.
fn decoded(part: &str) -> String {
    if !part.contains('%') {
        return part.to_owned();
    }
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn answer(method: Method, path: &str) -> Response {
        let said = |text: &'static str| {
            move |_req: Request, ctx: RouteContext<u8>| {
                let mut params: Vec<_> = ctx.params.0.into_iter().collect();
                params.sort();
                Response::ok(format!("{text} {params:?} {}", ctx.data))
            }
        };
        let router = Router::with_data(7)
            .get("/*rest", said("rest"))
            .get("/a/:id", said("param"))
            .get("/a/b", said("literal"))
            .post("/a/b", said("posted"))
            .get_async("/a/:id/c", |_req, _ctx| async { Response::ok("async") })
            .put("/only", said("put"))
            .or_else_any_method("/any", said("any"));
        let request = Request::new(&format!("http://h{path}"), method).unwrap();
        now(router.run(request, Env::default())).unwrap()
    }

    fn text(method: Method, path: &str) -> String {
        now(answer(method, path).text()).unwrap()
    }

    #[test]
    fn the_most_exact_route_wins_whatever_the_order() {
        assert_eq!(text(Method::Get, "/a/b"), "literal [] 7");
        assert_eq!(text(Method::Get, "/a/b/"), "literal [] 7");
        assert_eq!(text(Method::Post, "/a/b"), "posted [] 7");
        assert_eq!(text(Method::Get, "/a/x?q=1"), r#"param [("id", "x")] 7"#);
        assert_eq!(text(Method::Get, "/a/x/c"), "async");
        assert_eq!(text(Method::Get, "/a/x/d"), r#"rest [("rest", "a/x/d")] 7"#);
        assert_eq!(text(Method::Get, "/"), r#"rest [("rest", "")] 7"#);
    }

    #[test]
    fn a_less_exact_route_of_the_method_is_better_than_none() {
        assert_eq!(text(Method::Get, "/only"), r#"rest [("rest", "only")] 7"#);
        assert_eq!(text(Method::Delete, "/any"), "any [] 7");
    }

    #[test]
    fn params_are_percent_decoded_where_they_can_be() {
        assert_eq!(text(Method::Get, "/a/caf%C3%A9%20x"), r#"param [("id", "café x")] 7"#);
        assert_eq!(text(Method::Get, "/a/%FF"), r#"param [("id", "%FF")] 7"#);
        assert_eq!(text(Method::Get, "/a/100%"), r#"param [("id", "100%")] 7"#);
        assert_eq!(text(Method::Get, "/a/%2Fetc"), r#"param [("id", "/etc")] 7"#);
    }

    #[test]
    fn a_path_without_a_route_is_404_and_a_method_without_one_405() {
        let missing = Router::new().get("/a", |_req, _ctx| Response::ok(""));
        let request = Request::new("http://h/b", Method::Get).unwrap();
        assert_eq!(now(missing.run(request, Env::default())).unwrap().status_code(), 404);
        let refused = answer(Method::Delete, "/a/b");
        assert_eq!(refused.status_code(), 405);
        assert_eq!(refused.headers().get("allow").unwrap().unwrap(), "GET, POST");
    }
}
