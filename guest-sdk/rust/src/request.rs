//! Requests: the one a worker answers and those it sends.
//!
//! Every part of an incoming request is asked from the host when it is first used, because a handler that ignores the
//! headers should not pay for copying them.

use crate::body::Body;
use crate::{ByteStream, Error, Headers, Method, Result, sys};
use serde::de::DeserializeOwned;
use std::cell::OnceCell;
use url::Url;

/// An HTTP request.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// async fn main(mut req: Request, _env: Env, _ctx: Context) -> Result<Response> {
///     let text = req.text().await?;
///     Response::ok(format!("{} {} {} bytes", req.method(), req.path(), text.len()))
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Request {
    incoming: Option<sys::IncomingRequest>,
    method: OnceCell<Method>,
    target: OnceCell<Target>,
    headers: OnceCell<Headers>,
    body: Option<Body>,
}

/// Where a request goes, in the pieces that HTTP carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: String,
    pub(crate) authority: String,
    /// Begins with `/` and holds the query; a fragment never travels.
    pub(crate) path_with_query: String,
}

impl Target {
    fn from_url(url: &Url) -> Result<Self> {
        let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
            return Err(format!("`{url}` is not an http or https URL").into());
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path_with_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { scheme: url.scheme().to_owned(), authority, path_with_query })
    }

    fn path(&self) -> &str {
        self.path_with_query.split(['?', '#']).next().unwrap_or("/")
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path_with_query)
    }
}

impl Request {
    /// A request to send, without headers or a body.
    ///
    /// # Errors
    /// When `uri` is not an http or https URL.
    ///
    /// ```
    /// use host_sdk::{Method, Request};
    ///
    /// let request = Request::new("https://example.com/a?b=c", Method::Get)?;
    /// assert_eq!(request.path(), "/a");
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn new(uri: &str, method: Method) -> Result<Self> {
        Self::new_with_init(uri, RequestInit::new().with_method(method))
    }

    /// A request to send.
    ///
    /// # Errors
    /// When `uri` is not an http or https URL.
    ///
    /// ```
    /// use host_sdk::{Method, Request, RequestInit};
    ///
    /// let init = RequestInit::new().with_method(Method::Post).with_body(r#"{"a":1}"#);
    /// let request = Request::new_with_init("https://example.com/items", init)?;
    /// assert_eq!(request.method(), Method::Post);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn new_with_init(uri: &str, init: RequestInit) -> Result<Self> {
        let target = Target::from_url(&Url::parse(uri)?)?;
        Ok(Self {
            incoming: None,
            method: OnceCell::from(init.method),
            target: OnceCell::from(target),
            headers: OnceCell::from(init.headers),
            body: Some(init.body),
        })
    }

    pub(crate) fn from_host(incoming: sys::IncomingRequest) -> Self {
        Self {
            incoming: Some(incoming),
            method: OnceCell::new(),
            target: OnceCell::new(),
            headers: OnceCell::new(),
            body: None,
        }
    }

    /// The method.
    ///
    /// ```no_run
    /// # fn example(req: &host_sdk::Request) {
    /// if req.method() == host_sdk::Method::Post { /* … */ }
    /// # }
    /// ```
    pub fn method(&self) -> Method {
        self.method.get_or_init(|| self.incoming.as_ref().map(|host| host.method()).unwrap_or_default()).clone()
    }

    /// The whole URL, as the client wrote it.
    ///
    /// # Errors
    /// When the client sent a host or a path that no URL can hold.
    ///
    /// ```
    /// # use host_sdk::{Method, Request};
    /// let request = Request::new("http://shop.localhost:8787/items?color=red", Method::Get)?;
    /// let url = request.url()?;
    /// let color = url.query_pairs().find(|(key, _)| key == "color").map(|(_, value)| value.into_owned());
    /// assert_eq!(color.as_deref(), Some("red"));
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn url(&self) -> Result<Url> {
        Ok(Url::parse(&self.target().to_string())?)
    }

    /// The path, percent-encoded as it came, without the query.
    ///
    /// ```
    /// # use host_sdk::{Method, Request};
    /// assert_eq!(Request::new("http://a/b%20c?d", Method::Get)?.path(), "/b%20c");
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn path(&self) -> String {
        self.target().path().to_owned()
    }

    /// The headers.
    ///
    /// ```no_run
    /// # fn example(req: &host_sdk::Request) -> host_sdk::Result<()> {
    /// let wants_html = req.headers().get("accept")?.is_some_and(|accept| accept.contains("text/html"));
    /// # let _ = wants_html;
    /// # Ok(())
    /// # }
    /// ```
    pub fn headers(&self) -> &Headers {
        self.headers.get_or_init(|| {
            Headers::from_entries(self.incoming.as_ref().map(|host| host.headers()).unwrap_or_default())
        })
    }

    /// The headers, to change them before the request is sent on.
    ///
    /// # Errors
    /// None today; the signature is the one that users of workers in Rust know.
    ///
    /// ```
    /// # use host_sdk::{Method, Request};
    /// let mut request = Request::new("https://example.com/", Method::Get)?;
    /// request.headers_mut()?.set("accept", "application/json")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn headers_mut(&mut self) -> Result<&mut Headers> {
        self.headers();
        self.headers.get_mut().ok_or_else(|| Error::from("the headers are gone"))
    }

    /// The body as bytes.
    ///
    /// # Errors
    /// When it was read before or breaks off.
    ///
    /// ```no_run
    /// # async fn example(mut req: host_sdk::Request) -> host_sdk::Result<()> {
    /// let upload: Vec<u8> = req.bytes().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bytes(&mut self) -> Result<Vec<u8>> {
        self.take_body()?.into_bytes().await
    }

    /// The body as text.
    ///
    /// # Errors
    /// When it was read before, breaks off or is not UTF-8.
    ///
    /// ```no_run
    /// # async fn example(mut req: host_sdk::Request) -> host_sdk::Result<()> {
    /// let note: String = req.text().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn text(&mut self) -> Result<String> {
        self.take_body()?.into_text().await
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it was read before, breaks off or is not the JSON that `T` wants.
    ///
    /// ```no_run
    /// #[derive(serde::Deserialize)]
    /// struct Order { item: String, count: u32 }
    ///
    /// # async fn example(mut req: host_sdk::Request) -> host_sdk::Result<()> {
    /// let order: Order = req.json().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }

    /// The body, piece by piece.
    ///
    /// # Errors
    /// When it was read before.
    ///
    /// ```no_run
    /// # async fn example(mut req: host_sdk::Request) -> host_sdk::Result<host_sdk::Response> {
    /// host_sdk::Response::stream(req.stream()?)
    /// # }
    /// ```
    pub fn stream(&mut self) -> Result<ByteStream> {
        Ok(self.take_body()?.into_stream())
    }

    pub(crate) fn target(&self) -> &Target {
        self.target.get_or_init(|| {
            let host = self.incoming.as_ref();
            let authority =
                host.and_then(|host| host.authority()).or_else(|| self.headers().get("host").ok().flatten());
            Target {
                scheme: host.and_then(|host| host.scheme()).unwrap_or_else(|| "http".into()),
                authority: authority.unwrap_or_else(|| "localhost".into()),
                path_with_query: host.and_then(|host| host.path_with_query()).unwrap_or_else(|| "/".into()),
            }
        })
    }

    pub(crate) fn take_body(&mut self) -> Result<Body> {
        if self.body.is_none() {
            // What the body needs must be asked for first: on WASI 0.3 taking it uses the request up.
            self.method();
            self.headers();
            self.target();
            self.body = Some(match self.incoming.take() {
                Some(host) => Body::Stream(ByteStream::from_host(host.into_body()?)),
                None => Body::Empty,
            });
        }
        self.body.get_or_insert_default().take()
    }

    /// Everything there is to send. The headers of one connection stay behind.
    pub(crate) fn into_outgoing(mut self) -> Result<sys::OutgoingRequest> {
        let body = self.take_body()?;
        self.headers_mut()?.remove_hop_by_hop();
        Ok(sys::OutgoingRequest {
            method: self.method(),
            target: self.target().clone(),
            headers: self.headers.take().unwrap_or_default().into_entries(),
            body: body.into_outgoing(),
        })
    }
}

/// What a new [`Request`] is made of besides its URL.
///
/// ```
/// use host_sdk::{Headers, Method, RequestInit};
///
/// let mut headers = Headers::new();
/// headers.set("content-type", "text/plain")?;
/// let init = RequestInit::new().with_method(Method::Put).with_headers(headers).with_body("hello");
/// # drop(init);
/// # Ok::<(), host_sdk::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct RequestInit {
    method: Method,
    headers: Headers,
    body: Body,
}

impl RequestInit {
    /// A `GET` without headers or a body.
    ///
    /// ```
    /// let init = host_sdk::RequestInit::new();
    /// # drop(init);
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the method.
    ///
    /// ```
    /// let init = host_sdk::RequestInit::new().with_method(host_sdk::Method::Head);
    /// # drop(init);
    /// ```
    pub fn with_method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Sets the headers.
    ///
    /// ```
    /// let init = host_sdk::RequestInit::new().with_headers(host_sdk::Headers::new());
    /// # drop(init);
    /// ```
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the body to bytes in memory.
    ///
    /// ```
    /// let init = host_sdk::RequestInit::new().with_body(vec![1, 2, 3]);
    /// # drop(init);
    /// ```
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::from_bytes(body.into());
        self
    }

    /// Sets the body to a stream; an unread body of another message is passed on by the host.
    ///
    /// ```no_run
    /// # fn example(mut upload: host_sdk::Request) -> host_sdk::Result<()> {
    /// let init = host_sdk::RequestInit::new().with_method(host_sdk::Method::Put).with_stream(upload.stream()?);
    /// # drop(init);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_stream(mut self, body: impl Into<ByteStream>) -> Self {
        self.body = Body::Stream(body.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    #[test]
    fn a_url_is_split_into_what_http_carries() {
        let request = Request::new("https://example.com:8443/a/b?c=d&e#part", Method::Get).unwrap();
        assert_eq!(request.target().to_string(), "https://example.com:8443/a/b?c=d&e");
        assert_eq!(request.path(), "/a/b");
        assert_eq!(request.url().unwrap().query(), Some("c=d&e"));
        assert_eq!(Request::new("http://h", Method::Get).unwrap().path(), "/");
    }

    #[test]
    fn credentials_never_reach_the_authority() {
        let request = Request::new("http://user:word@example.com/", Method::Get).unwrap();
        assert_eq!(request.target().authority, "example.com");
    }

    #[test]
    fn only_http_urls_can_be_sent() {
        for url in ["ftp://example.com/", "data:text/plain,x", "/relative", ""] {
            assert!(Request::new(url, Method::Get).is_err(), "{url}");
        }
    }

    #[test]
    fn a_json_body_is_decoded_and_then_gone() {
        let mut request = Request::new_with_init("http://h/", RequestInit::new().with_body(r#"{"n":3}"#)).unwrap();
        assert_eq!(now(request.json::<serde_json::Value>()).unwrap()["n"], 3);
        assert!(now(request.bytes()).is_err());
    }
}
