//! What went wrong, in the terms of `wasi:http`.
//!
//! A guest learns which kind of thing failed and nothing of this host: no addresses, no paths, no texts of the operating
//! system. The full cause goes to the log at debug level, where the operator can see it.

pub(super) use wasmtime_wasi_http::Error;

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

/// The error for a failure of the socket or of the TLS session on it.
pub(super) fn from_io(error: &io::Error) -> Error {
    tracing::debug!(%error, "outbound connection failed");
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return from_tls(tls);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        ErrorKind::TimedOut => Error::ConnectionTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
            Error::DestinationIpUnroutable
        }
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Error::ConnectionTerminated,
        _ if out_of_descriptors(error) => Error::ConnectionLimitReached,
        _ => Error::DestinationUnavailable,
    }
}

/// `EMFILE` and `ENFILE`, which have no `ErrorKind`; the numbers are the same on Linux, macOS and the BSDs.
fn out_of_descriptors(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

fn from_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Error::TlsCertificateError,
        rustls::Error::AlertReceived(alert) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        _ => Error::TlsProtocolError,
    }
}

/// The error for a failed exchange, before the response's header has arrived.
pub(super) fn from_hyper(error: &hyper::Error) -> Error {
    tracing::debug!(error = %Chain(error), "outbound exchange failed");
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<Error>() {
            return of_request_body(error);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return from_io(error);
        }
        cause = error.source();
    }
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// The error for a failure after the response's header has arrived.
pub(super) fn in_body(error: &hyper::Error) -> Error {
    match from_hyper(error) {
        Error::ConnectionTerminated => Error::HttpResponseIncomplete,
        other => other,
    }
}

/// The guest's own body failed. The error is only lent by hyper and cannot be cloned, so what a guest can cause is
/// spelled out, and the rest keeps only its kind.
fn of_request_body(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
        Error::HttpRequestTrailerSectionSize(size) => Error::HttpRequestTrailerSectionSize(*size),
        Error::ConnectionTerminated => Error::ConnectionTerminated,
        _ => Error::InternalError(None),
    }
}

/// An error with all its causes, for the log.
struct Chain<'a>(&'a dyn StdError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
