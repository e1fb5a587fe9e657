//! Requests to other servers.

use crate::{Request, Response, Result, sys};
use url::Url;

/// A request to another server.
///
/// The host refuses private addresses unless the binding file allows them, bounds the number of sub-requests, and
/// follows no redirects.
///
/// ```no_run
/// use host_sdk::*;
///
/// # async fn example() -> Result<Response> {
/// let mut weather = Fetch::Url("https://example.com/weather.json".parse()?).send().await?;
/// let report: serde_json::Value = weather.json().await?;
/// # Response::from_json(&report)
/// # }
/// ```
#[derive(Debug)]
pub enum Fetch {
    /// A `GET` without headers.
    Url(Url),
    /// Any request.
    Request(Request),
}

impl Fetch {
    /// Sends the request and gives the response once its headers are here; the body may still be on its way.
    ///
    /// # Errors
    /// When the host does not allow the address or no response comes. A status such as 404 is a response.
    ///
    /// ```no_run
    /// # use host_sdk::*;
    /// # async fn example() -> Result<Response> {
    /// let init = RequestInit::new().with_method(Method::Post).with_body("hello");
    /// Fetch::Request(Request::new_with_init("https://example.com/echo", init)?).send().await
    /// # }
    /// ```
    pub async fn send(self) -> Result<Response> {
        let request = match self {
            Fetch::Url(url) => Request::new(url.as_str(), crate::Method::Get)?,
            Fetch::Request(request) => request,
        };
        Ok(Response::from_host(sys::send(request.into_outgoing()?).await?))
    }
}
