//! Why a server gave no answer that can be used.

use std::time::Duration;

/// A failed call of a server. Its text names the server by its address and never holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No connection could be made.
    #[error("{upstream} cannot be reached: {reason}")]
    Unreachable {
        /// The server's address.
        upstream: String,
        /// What the system says.
        reason: String,
    },
    /// Something did not come in time.
    #[error("{upstream} {what} within {} ms", .limit.as_millis())]
    Timeout {
        /// The server's address.
        upstream: String,
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The server answered with a status that is an error.
    #[error("{upstream} answered {status}: {message}")]
    Status {
        /// The server's address.
        upstream: String,
        /// The status.
        status: u16,
        /// What it says about it, in few words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// What the server sent is not what it should be, or broke off.
    #[error("{upstream} sent an answer that cannot be used: {reason}")]
    Broken {
        /// The server's address.
        upstream: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every server has failed too often and is left alone until it answers a health check.
    #[error("no server answers: {upstreams}")]
    AllDown {
        /// Their addresses.
        upstreams: String,
        /// When the next health check is.
        retry_after: Duration,
    },
    /// The request cannot be sent to any server.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl UpstreamError {
    /// Whether another attempt may fare better.
    pub fn may_be_retried(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => retryable(*status),
            Self::AllDown { .. } | Self::Request(_) => false,
        }
    }

    /// When the server wants to be asked again, where it says.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::AllDown { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether it speaks against the server, and not only against the request or its timing.
    pub(crate) fn is_fault_of_server(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            Self::AllDown { .. } | Self::Request(_) => false,
        }
    }
}

/// Whether a status means that the same request may be answered otherwise later.
fn retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 529)
}
