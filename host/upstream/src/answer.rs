//! An answer as it comes: its head, then its body within bounds of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::UpstreamError;
use crate::connection::Connection;
use crate::group::Place;
use crate::scrub::Scrub;

/// What of an error's body is read and shown.
const ERROR_BYTES: usize = 64 << 10;
const ERROR_CHARACTERS: usize = 500;
/// How long the end of a body is waited for that says nothing more.
const LAST: Duration = Duration::from_millis(100);
/// What a date in `retry-after` is taken for: clocks differ, so it is not computed with.
const SOME_TIME: Duration = Duration::from_secs(5);

/// An answer whose head has come. Dropping it before its end gives it up.
pub struct Answer {
    /// The status: any but 1xx.
    pub status: u16,
    /// The head's fields, without those that show the server's key.
    pub headers: HeaderMap,
    body: Incoming,
    /// None once the body has ended or failed.
    connection: Option<Connection>,
    place: Place,
    patience: Duration,
    scrub: Scrub,
}

impl Answer {
    pub(crate) fn new(
        head: http::response::Parts,
        body: Incoming,
        connection: Connection,
        place: Place,
        patience: Duration,
    ) -> Self {
        let (scrub, mut headers) = (Scrub::new(place.secret()), head.headers);
        let shows: Vec<HeaderName> =
            headers.iter().filter(|(_, value)| scrub.finds(value.as_bytes())).map(|(name, _)| name.clone()).collect();
        for name in shows {
            headers.remove(name);
        }
        Self { status: head.status.as_u16(), headers, body, connection: Some(connection), place, patience, scrub }
    }

    /// The address of the server that answers.
    pub fn upstream(&self) -> String {
        self.place.address()
    }

    /// The media type without its parameters, in lower case.
    pub fn media_type(&self) -> String {
        let value = self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The next piece of the body; none at its end. The server's key is in none of them.
    ///
    /// # Errors
    /// When nothing comes in time, or the body breaks off or is not what the head said. The answer is over then.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if self.connection.is_none() {
            return Ok(None);
        }
        loop {
            let error = match timeout(self.patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match self.scrub.piece(data) {
                        data if data.is_empty() => continue,
                        data => return Ok(Some(data)),
                    },
                    // Fields after the body say nothing that is used here.
                    Err(_) => continue,
                },
                Ok(None) => {
                    if let Some(connection) = self.connection.take() {
                        self.place.keep(connection);
                        if self.status < 500 && self.status != 429 {
                            self.place.succeeded();
                        }
                    }
                    return Ok(self.scrub.rest());
                }
                Ok(Some(Err(error))) => UpstreamError::Broken {
                    upstream: self.upstream(),
                    reason: format!("its body broke off ({})", shown(&error)),
                },
                Err(_) => UpstreamError::Timeout {
                    upstream: self.upstream(),
                    what: "sent no more of its answer",
                    limit: self.patience,
                },
            };
            return Err(self.fail(error));
        }
    }

    /// The whole body, of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Answer::piece`], when the body is longer, and when it is not whole after the time for one piece.
    pub async fn whole(&mut self, most: usize) -> Result<Bytes, UpstreamError> {
        let limit = self.patience;
        match timeout(limit, self.gather(most)).await {
            Ok(gathered) => gathered,
            Err(_) => {
                let error = UpstreamError::Timeout { upstream: self.upstream(), what: "did not end its answer", limit };
                Err(self.fail(error))
            }
        }
    }

    async fn gather(&mut self, most: usize) -> Result<Bytes, UpstreamError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() + piece.len() > most {
                let reason = format!("it is longer than {most} bytes");
                let error = UpstreamError::Broken { upstream: self.upstream(), reason };
                return Err(self.fail(error));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Itself if its status is a success; else the error that it is.
    ///
    /// # Errors
    /// [`UpstreamError::Status`] with what the body says, as far as it can be read.
    pub async fn success(mut self) -> Result<Self, UpstreamError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let body = self.whole(ERROR_BYTES).await.unwrap_or_default();
        let error = UpstreamError::Status {
            upstream: self.upstream(),
            status: self.status,
            message: printable(&String::from_utf8_lossy(&body)),
            retry_after: self.retry_after(),
        };
        Err(error)
    }

    /// What was wanted of the body has come. Its end may follow at once, and the connection is then kept.
    pub async fn finish(mut self) {
        if timeout(LAST, self.piece()).await.is_err() {
            self.place.succeeded();
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        Some(value.parse().map_or(SOME_TIME, Duration::from_secs))
    }

    /// What the body turned out to be is the server's fault.
    pub fn broken(&mut self, reason: impl Into<String>) -> UpstreamError {
        let error = UpstreamError::Broken { upstream: self.upstream(), reason: reason.into() };
        self.fail(error)
    }

    fn fail(&mut self, error: UpstreamError) -> UpstreamError {
        if self.connection.take().is_some() {
            self.place.report(&error);
        }
        error
    }
}

/// A text of a server, fit to be printed.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARACTERS).collect();
    text.trim().to_owned()
}

/// An error with its causes.
pub(crate) fn shown(error: &hyper::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
