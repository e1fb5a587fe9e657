//! Error pages: what a caller learns when there is no answer.

use bytes::Bytes;
use host_runtime::Failure;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http_body_util::Full;
use serde::Serialize;

/// `{"error":{"code":…,"message":…,"request_id":…}}` with an HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// A stable number for programs; Cloudflare's where it has one.
    pub code: u32,
    /// A sentence for people.
    pub message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: u32,
    message: &'a str,
    request_id: &'a str,
}

impl From<&Failure> for Page {
    fn from(failure: &Failure) -> Self {
        Self { status: failure.status(), code: failure.code(), message: failure.to_string() }
    }
}

impl Page {
    /// Nobody answers for this host.
    pub(crate) fn no_worker(host: &str) -> Self {
        let shown: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
        Self {
            status: 404,
            code: 1001,
            message: format!(
                "No worker answers for {shown:?}; a worker answers at http://NAME.localhost and on its routes"
            ),
        }
    }

    /// There are no workers, or not yet.
    pub(crate) fn nothing_served() -> Self {
        Self { status: 503, code: 1105, message: "No worker is served yet; the log says why".to_owned() }
    }

    /// The request does not say which host it is for.
    pub(crate) fn no_host() -> Self {
        Self { status: 400, code: 1003, message: "The request has no valid Host header".to_owned() }
    }

    /// The page as a response.
    pub fn response(&self, request_id: &str) -> http::Response<Full<Bytes>> {
        let body = Body { error: Error { code: self.code, message: &self.message, request_id } };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = http::Response::new(Full::new(body.into()));
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self.status, 429 | 503) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
