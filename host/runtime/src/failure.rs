//! Why a request got no answer from its worker.

use std::time::Duration;

/// Why a request failed. `Display` is fit for the person who called: it says which limit was hit, never what the
/// guest or the host was doing; that is in the log under the request's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The guest trapped, panicked or returned without an answer.
    #[error("Worker threw exception")]
    Exception,
    /// The guest ran too long.
    #[error("Worker exceeded its CPU time limit of {} ms", limit.as_millis())]
    CpuExceeded {
        /// What it may use.
        limit: Duration,
    },
    /// The request took too long.
    #[error("Worker did not finish within {} ms", limit.as_millis())]
    WallExceeded {
        /// What it may take.
        limit: Duration,
    },
    /// The guest asked for too much memory.
    #[error("Worker exceeded its memory limit of {} MiB", limit >> 20)]
    MemoryExceeded {
        /// What it may use, in bytes.
        limit: usize,
    },
    /// The request's body is too large.
    #[error("Request body is larger than {limit} bytes")]
    RequestTooLarge {
        /// What is taken, in bytes.
        limit: u64,
    },
    /// The request's body stopped arriving.
    #[error("Request body did not arrive in time")]
    RequestStalled,
    /// The response's body is too large.
    #[error("Response body is larger than {limit} bytes")]
    ResponseTooLarge {
        /// What is given, in bytes.
        limit: u64,
    },
    /// Too many requests at once, for this worker or for the whole host.
    #[error("Too many requests at once, please try again")]
    Busy,
    /// The client went away.
    #[error("Client closed the request")]
    ClientGone,
    /// The host is stopping.
    #[error("Server is shutting down")]
    ShuttingDown,
}

impl Failure {
    /// The HTTP status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            Self::Exception => 500,
            Self::CpuExceeded { .. } | Self::MemoryExceeded { .. } | Self::Busy | Self::ShuttingDown => 503,
            Self::WallExceeded { .. } => 504,
            Self::RequestTooLarge { .. } => 413,
            Self::RequestStalled => 408,
            Self::ResponseTooLarge { .. } => 502,
            // Never seen by anyone; nginx's number, so that logs read as usual.
            Self::ClientGone => 499,
        }
    }

    /// The code in the error page: Cloudflare's where it has one.
    pub fn code(&self) -> u32 {
        match self {
            Self::Exception => 1101,
            Self::CpuExceeded { .. }
            | Self::MemoryExceeded { .. }
            | Self::WallExceeded { .. }
            | Self::ResponseTooLarge { .. } => 1102,
            Self::Busy | Self::ShuttingDown => 1105,
            Self::RequestTooLarge { .. } => 3006,
            Self::RequestStalled => 3007,
            Self::ClientGone => 3008,
        }
    }
}
