//! What can go wrong in a worker, in one type, so that `?` works on every call of this crate.

/// The result of every fallible call of this crate.
///
/// ```
/// use host_sdk::Result;
///
/// fn port(text: &str) -> Result<u16> {
///     text.parse().map_err(|_| format!("`{text}` is not a port").into())
/// }
/// assert!(port("no").is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// A handler that returns an error answers 500 with a plain body; the error itself goes to the worker's log, never to
/// the client.
///
/// ```
/// use host_sdk::Error;
///
/// let error = Error::from("the cache is cold");
/// assert_eq!(error.to_string(), "the cache is cold");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model call that the host or the model refused.
    #[error(transparent)]
    Ai(#[from] AiError),
    /// A call of a binding's method that the host refused.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// A name that the binding file does not grant; the text holds the lines to add to it.
    #[error("{0}")]
    MissingBinding(String),
    /// A text that is not the JSON that was asked for.
    #[error("JSON: {0}")]
    SerdeJson(#[from] serde_json::Error),
    /// A text that is not a URL.
    #[error("URL: {0}")]
    Url(#[from] url::ParseError),
    /// A header that HTTP or the host does not allow.
    #[error("header `{name}`: {reason}")]
    Header {
        /// The header's name as it was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A status code outside 200 to 599.
    #[error("{0} is not a status a response can have; use 200 to 599")]
    Status(u16),
    /// A body that was read before, broke off, or is not UTF-8.
    #[error("body: {0}")]
    Body(String),
    /// A stream of events that broke off or holds what no event stream holds.
    #[error("event stream: {0}")]
    EventStream(String),
    /// An outgoing request that got no response.
    #[error("fetch {url}: {reason}")]
    Fetch {
        /// Where the request went.
        url: String,
        /// Why it failed.
        reason: String,
    },
    /// Anything else, in words.
    #[error("{0}")]
    RustError(String),
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Error::RustError(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Error::RustError(message.to_owned())
    }
}

/// A refused model call: the service's code, the HTTP status that goes with it and a description.
///
/// It reads `code: message`, as the original service words it.
///
/// ```
/// use host_sdk::AiError;
///
/// let error = AiError { code: 5007, status: 400, message: "No such model @cf/x/y or task".into(), retry_after: None };
/// assert_eq!(error.to_string(), "5007: No such model @cf/x/y or task");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AiError {
    /// The service's internal code, for example 5007 for an unknown model.
    pub code: u32,
    /// The HTTP status to answer with.
    pub status: u16,
    /// The description, without the code.
    pub message: String,
    /// When trying again may help: after so many seconds.
    pub retry_after: Option<u32>,
}

/// A refused call of a binding's method. It reads as the original service words it.
///
/// ```
/// use host_sdk::BindingError;
///
/// let error = BindingError { code: 40006, status: 400, message: "VECTOR_QUERY_ERROR (code = 40006): no vector".into() };
/// assert!(error.to_string().contains("40006"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BindingError {
    /// The service's code, or 0 where it has none.
    pub code: u32,
    /// The HTTP status to answer with.
    pub status: u16,
    /// What went wrong.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ai_error_reads_as_code_and_message_through_the_outer_error() {
        let inner = AiError { code: 3040, status: 429, message: "Capacity".into(), retry_after: Some(2) };
        assert_eq!(Error::from(inner).to_string(), "3040: Capacity");
    }
}
