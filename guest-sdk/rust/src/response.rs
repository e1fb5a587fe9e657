//! Responses: the one a worker gives and those it gets.

use crate::body::Body;
use crate::{ByteStream, Error, Headers, Result, sys};
use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

/// An HTTP response.
///
/// ```
/// use host_sdk::Response;
///
/// let mut response = Response::ok("made")?.with_status(201);
/// response.headers_mut().set("location", "/items/7")?;
/// assert_eq!(response.status_code(), 201);
/// # Ok::<(), host_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Headers,
    body: Body,
}

impl Response {
    fn with_type(content_type: &str, body: Vec<u8>) -> Self {
        let mut headers = Headers::new();
        headers.set_known("content-type", content_type);
        Self { status: 200, headers, body: Body::from_bytes(body) }
    }

    /// 200 with plain text.
    ///
    /// # Errors
    /// None; the signature lets a handler end in it.
    ///
    /// ```
    /// let response = host_sdk::Response::ok("hello")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn ok(body: impl Into<String>) -> Result<Self> {
        Ok(Self::with_type("text/plain; charset=utf-8", body.into().into_bytes()))
    }

    /// Plain text with a status that says what went wrong.
    ///
    /// # Errors
    /// When `status` is not between 400 and 599.
    ///
    /// ```
    /// use host_sdk::Response;
    ///
    /// assert_eq!(Response::error("no such item", 404)?.status_code(), 404);
    /// assert!(Response::error("fine", 200).is_err());
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn error(message: impl Into<String>, status: u16) -> Result<Self> {
        if !(400..=599).contains(&status) {
            return Err(format!("{status} is not an error status; use 400 to 599").into());
        }
        Ok(Self::ok(message)?.with_status(status))
    }

    /// 200 without a body.
    ///
    /// # Errors
    /// None.
    ///
    /// ```
    /// let gone = host_sdk::Response::empty()?.with_status(204);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn empty() -> Result<Self> {
        Ok(Self { status: 200, headers: Headers::new(), body: Body::Empty })
    }

    /// 200 with JSON.
    ///
    /// # Errors
    /// When `value` has no JSON form.
    ///
    /// ```
    /// let response = host_sdk::Response::from_json(&serde_json::json!({ "count": 3 }))?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn from_json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self::with_type("application/json", serde_json::to_vec(value)?))
    }

    /// 200 with a page.
    ///
    /// # Errors
    /// None.
    ///
    /// ```
    /// let response = host_sdk::Response::from_html("<h1>hello</h1>")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn from_html(html: impl AsRef<str>) -> Result<Self> {
        Ok(Self::with_type("text/html; charset=utf-8", html.as_ref().as_bytes().to_vec()))
    }

    /// 200 with bytes of no stated type (`application/octet-stream`).
    ///
    /// # Errors
    /// None.
    ///
    /// ```
    /// let mut response = host_sdk::Response::from_bytes(vec![0x89, b'P', b'N', b'G'])?;
    /// response.headers_mut().set("content-type", "image/png")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Ok(Self::with_type("application/octet-stream", bytes))
    }

    /// 200 with a body that the worker makes piece by piece. The client's pace is the stream's: it is polled for the
    /// next piece when the last has left.
    ///
    /// # Errors
    /// None. An `Err` piece breaks the response off, so that the client sees it is incomplete.
    ///
    /// ```
    /// use futures_util::{StreamExt, stream};
    /// use host_sdk::Response;
    ///
    /// let lines = stream::iter(1..=3).map(|n| Ok::<_, host_sdk::Error>(format!("{n}\n")));
    /// let response = Response::from_stream(lines)?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn from_stream<S, B, E>(stream: S) -> Result<Self>
    where
        S: Stream<Item = Result<B, E>> + 'static,
        B: Into<Vec<u8>>,
        E: Into<Error>,
    {
        Self::stream(ByteStream::new(stream))
    }

    /// 200 with a stream that comes from elsewhere: a model, a request's body, another response. What was not read yet
    /// goes to the client untouched and without passing through the worker.
    ///
    /// The content type is the stream's own where it has one (a model's), else `application/octet-stream`.
    ///
    /// # Errors
    /// None.
    ///
    /// ```no_run
    /// use host_sdk::*;
    ///
    /// # async fn example(env: Env) -> Result<Response> {
    /// let input = ai::TextGenerationInput::prompt("Tell me a story");
    /// Response::stream(env.ai("AI")?.run_stream("@cf/meta/llama-3.1-8b-instruct", &input).await?)
    /// # }
    /// ```
    pub fn stream(source: impl Into<StreamBody>) -> Result<Self> {
        let StreamBody { content_type, bytes } = source.into();
        let mut headers = Headers::new();
        headers.set("content-type", content_type.as_deref().unwrap_or("application/octet-stream"))?;
        Ok(Self { status: 200, headers, body: Body::Stream(bytes) })
    }

    /// 302 to another address.
    ///
    /// # Errors
    /// None.
    ///
    /// ```
    /// let response = host_sdk::Response::redirect("https://example.com/".parse()?)?;
    /// assert_eq!(response.status_code(), 302);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn redirect(url: Url) -> Result<Self> {
        Self::redirect_with_status(url, 302)
    }

    /// A redirection with the status of your choice.
    ///
    /// # Errors
    /// When `status` is none of 301, 302, 303, 307 and 308.
    ///
    /// ```
    /// use host_sdk::Response;
    ///
    /// assert!(Response::redirect_with_status("https://example.com/".parse()?, 308).is_ok());
    /// assert!(Response::redirect_with_status("https://example.com/".parse()?, 200).is_err());
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn redirect_with_status(url: Url, status: u16) -> Result<Self> {
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!("{status} does not redirect; use 301, 302, 303, 307 or 308").into());
        }
        let mut response = Self::empty()?.with_status(status);
        response.headers.set("location", url.as_str())?;
        Ok(response)
    }

    pub(crate) fn from_host(parts: sys::IncomingResponse) -> Self {
        Self {
            status: parts.status,
            headers: Headers::from_entries(parts.headers),
            body: Body::Stream(ByteStream::from_host(parts.body)),
        }
    }

    /// Sets the status. One outside 200 to 599 makes the handler fail when it returns the response.
    ///
    /// ```
    /// assert_eq!(host_sdk::Response::ok("tea")?.with_status(418).status_code(), 418);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Replaces all headers.
    ///
    /// ```
    /// use host_sdk::{Headers, Response};
    ///
    /// let mut headers = Headers::new();
    /// headers.set("content-type", "text/css")?;
    /// let response = Response::ok("a { color: red }")?.with_headers(headers);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// The status.
    ///
    /// ```
    /// assert_eq!(host_sdk::Response::empty()?.status_code(), 200);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn status_code(&self) -> u16 {
        self.status
    }

    /// The headers.
    ///
    /// ```
    /// let page = host_sdk::Response::from_html("<p>")?;
    /// assert_eq!(page.headers().get("content-type")?.as_deref(), Some("text/html; charset=utf-8"));
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, to change them.
    ///
    /// ```
    /// let mut response = host_sdk::Response::ok("x")?;
    /// response.headers_mut().set("cache-control", "no-store")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The body as bytes.
    ///
    /// # Errors
    /// When it was read before or breaks off.
    ///
    /// ```no_run
    /// # async fn example(mut response: host_sdk::Response) -> host_sdk::Result<()> {
    /// let image: Vec<u8> = response.bytes().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bytes(&mut self) -> Result<Vec<u8>> {
        self.body.take()?.into_bytes().await
    }

    /// The body as text.
    ///
    /// # Errors
    /// When it was read before, breaks off or is not UTF-8.
    ///
    /// ```no_run
    /// # async fn example(mut response: host_sdk::Response) -> host_sdk::Result<()> {
    /// let page: String = response.text().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn text(&mut self) -> Result<String> {
        self.body.take()?.into_text().await
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it was read before, breaks off or is not the JSON that `T` wants.
    ///
    /// ```no_run
    /// # async fn example(mut response: host_sdk::Response) -> host_sdk::Result<()> {
    /// let answer: serde_json::Value = response.json().await?;
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
    /// # async fn example(mut upstream: host_sdk::Response) -> host_sdk::Result<host_sdk::Response> {
    /// host_sdk::Response::stream(upstream.body_stream()?)
    /// # }
    /// ```
    pub fn body_stream(&mut self) -> Result<ByteStream> {
        Ok(self.body.take()?.into_stream())
    }

    /// Everything there is to send. The headers of one connection stay behind, so that a response that was fetched can
    /// be returned as it is.
    ///
    /// # Errors
    /// When the status is none a response can have.
    pub(crate) fn into_outgoing(mut self) -> Result<sys::OutgoingResponse> {
        if !(200..=599).contains(&self.status) {
            return Err(Error::Status(self.status));
        }
        self.headers.remove_hop_by_hop();
        match &self.body {
            Body::Bytes(bytes) => self.headers.set_known("content-length", &bytes.len().to_string()),
            Body::Taken => return Err(Error::Body("it was read before and cannot be sent again".into())),
            Body::Empty | Body::Stream(_) => {}
        }
        Ok(sys::OutgoingResponse {
            status: self.status,
            headers: self.headers.into_entries(),
            body: self.body.into_outgoing(),
        })
    }
}

/// What [`Response::stream`] takes: bytes and, where their source knows it, their content type.
///
/// ```
/// use host_sdk::{ByteStream, Response};
/// use futures_util::stream;
///
/// let bytes = ByteStream::new(stream::iter([Ok::<_, host_sdk::Error>("a")]));
/// let response = Response::stream(bytes)?;
/// # Ok::<(), host_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamBody {
    pub(crate) content_type: Option<String>,
    pub(crate) bytes: ByteStream,
}

impl From<ByteStream> for StreamBody {
    fn from(bytes: ByteStream) -> Self {
        Self { content_type: None, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn header(response: &Response, name: &str) -> String {
        response.headers().get(name).unwrap().unwrap_or_default()
    }

    #[test]
    fn each_constructor_states_its_content_type() {
        assert_eq!(header(&Response::ok("a").unwrap(), "content-type"), "text/plain; charset=utf-8");
        assert_eq!(header(&Response::from_json(&1).unwrap(), "content-type"), "application/json");
        assert_eq!(header(&Response::from_bytes(vec![1]).unwrap(), "content-type"), "application/octet-stream");
        assert_eq!(header(&Response::empty().unwrap(), "content-type"), "");
    }

    #[test]
    fn a_length_is_stated_for_bytes_and_never_believed_from_the_worker() {
        let mut response = Response::ok("four").unwrap();
        response.headers_mut().set("Content-Length", "9999").unwrap();
        let sent = response.into_outgoing().unwrap();
        let lengths: Vec<_> =
            sent.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).collect();
        assert_eq!(lengths, [&("content-length".to_owned(), b"4".to_vec())]);
    }

    #[test]
    fn a_status_no_response_can_have_fails_when_it_is_sent() {
        for status in [0, 101, 199, 600, 999] {
            assert!(matches!(
                Response::empty().unwrap().with_status(status).into_outgoing(),
                Err(Error::Status(found)) if found == status
            ));
        }
    }

    #[test]
    fn the_body_of_a_response_can_be_read_back() {
        let mut response = Response::from_json(&vec![1, 2]).unwrap();
        assert_eq!(now(response.json::<Vec<u8>>()).unwrap(), [1, 2]);
        assert!(now(response.text()).is_err());
    }

    #[test]
    fn redirects_only_redirect() {
        let url: Url = "https://example.com/x".parse().unwrap();
        assert_eq!(header(&Response::redirect(url.clone()).unwrap(), "location"), "https://example.com/x");
        assert!(Response::redirect_with_status(url, 304).is_err());
    }
}
