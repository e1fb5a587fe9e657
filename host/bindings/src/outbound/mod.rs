//! Outbound HTTP: what a worker's `fetch` does.
//!
//! [`Client::send`] answers one request of a guest. It knows nothing of the guest, only the [`Policy`] of its worker, and
//! follows no redirects: a redirect is another request that the guest makes, and it passes the same filter. A request
//! goes through four steps, each in a module of its own: its URI is read once (`target`), the policy filters the
//! addresses of its host (`policy`, `address`), an address that passed is dialled (`dial`), and the response streams
//! back (`connection`, `body`), after which the connection may wait for the worker's next request (`pool`).
//!
//! Bodies stream both ways without being gathered, so a response of any length costs one connection's buffers. Bounds
//! that a guest cannot lift: time to connect, to the first byte and between bytes, header sections, and requests in
//! flight per worker and in all. How many sub-requests one request may make is for the caller to count.

mod address;
mod body;
mod connection;
mod dial;
mod error;
mod policy;
mod pool;
mod target;
#[cfg(test)]
mod tests;

pub use connection::Transmission;
pub use policy::{Policy, PolicyError};

use body::{Lease, ResponseBody};
use connection::{Connection, Failure};
use dial::{Network, System, dial};
use error::Error;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use pool::{Key, Pool};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{RequestOptions, WasiBody};

/// Requests that all workers together may have in flight.
const EXCHANGES: usize = 2048;

/// An HTTP client for guests. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    network: Box<dyn Network>,
    tls: TlsConnector,
    pool: Arc<Pool>,
    exchanges: Arc<Semaphore>,
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The extra certificates cannot be read.
    #[error("the extra root certificates are no PEM file of certificates: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// An extra certificate cannot be a root of trust, or TLS cannot be set up.
    #[error("TLS for outbound requests cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Client {
    /// A client that trusts the roots of the web.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new() -> Result<Self, ClientError> {
        Self::with_roots(&[])
    }

    /// A client that trusts the roots of the web and the certificates in `pem` besides, for servers of one's own.
    ///
    /// # Errors
    /// Where `pem` holds something that is no certificate, or TLS cannot be set up.
    pub fn with_roots(pem: &[u8]) -> Result<Self, ClientError> {
        Self::over(System::new(), pem)
    }

    fn over(network: impl Network, pem: &[u8]) -> Result<Self, ClientError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(ClientError::Pem)?)?;
        }
        // The provider is named so that no process-wide choice made elsewhere decides what protects this traffic.
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(Shared {
            network: Box::new(network),
            tls: TlsConnector::from(Arc::new(config)),
            pool: Arc::default(),
            exchanges: Arc::new(Semaphore::new(EXCHANGES)),
        })))
    }

    /// Sends `request` as far as `policy` permits and waits for the response's header. The response's body streams;
    /// dropping it, or this future, closes the connection. The [`Transmission`] ends with the exchange and need not be
    /// polled. Must be called on a Tokio runtime.
    ///
    /// Timeouts of `options` count up to 10 s for lookup and connection, 600 s for the first byte and 600 s between
    /// bytes; these are also the defaults.
    ///
    /// # Errors
    /// `HttpRequestDenied` for a destination that the policy refuses (the log says why and how to allow it),
    /// `HttpRequestUriInvalid` and its kin for a request that cannot be sent, `DnsError` and `DnsTimeout`,
    /// `ConnectionRefused`, `ConnectionTimeout`, `ConnectionTerminated`, `ConnectionLimitReached` for too many requests
    /// in flight, `ConnectionReadTimeout` for a response that does not come, the `Tls…` kinds, and `HttpProtocolError`
    /// for a server that speaks something else. None of them says more about this host.
    pub async fn send(
        &self,
        policy: &Policy,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<(Response<WasiBody>, Transmission), Error> {
        let limits = Timeouts::new(options.unwrap_or_default());
        let target = Target::of(&mut request)?;
        policy.admit(&target.endpoint)?;
        let places = self.places(policy)?;
        let key = Key::new(policy, &target.endpoint);

        let replay = Replay::of(&request);
        while let Some(connection) = self.0.pool.take(&key, policy) {
            match exchange(connection, request, &target, limits.first_byte).await {
                Ok(exchanged) => return self.respond(exchanged, key, places, limits),
                // The server had closed the connection while it waited. Nothing was written, or what was written
                // does no harm twice.
                Err(Failure { unsent: Some(unsent), .. }) => request = *unsent,
                Err(Failure { error, unsent: None }) => match replay {
                    Some(replay) if matches!(error, Error::ConnectionTerminated) => {
                        request = replay.request();
                        break;
                    }
                    _ => return Err(error),
                },
            }
        }
        let connection = dial(&*self.0.network, &self.0.tls, policy, &target.endpoint, limits.connect).await?;
        let exchanged =
            exchange(connection, request, &target, limits.first_byte).await.map_err(|failure| failure.error)?;
        self.respond(exchanged, key, places, limits)
    }

    /// Takes a place among the worker's requests in flight and one among all.
    fn places(&self, policy: &Policy) -> Result<[OwnedSemaphorePermit; 2], Error> {
        let place = |of: Arc<Semaphore>| of.try_acquire_owned().map_err(|_| Error::ConnectionLimitReached);
        Ok([place(policy.exchanges())?, place(Arc::clone(&self.0.exchanges))?])
    }

    fn respond(
        &self,
        (response, connection, transmission): Exchanged,
        key: Key,
        places: [OwnedSemaphorePermit; 2],
        limits: Timeouts,
    ) -> Result<(Response<WasiBody>, Transmission), Error> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::HttpUpgradeFailed);
        }
        let lease = Lease { connection, pool: Arc::clone(&self.0.pool), key, places };
        let mut response =
            response.map(|incoming| ResponseBody::new(incoming, lease, limits.between_bytes).boxed_unsync());
        target::clean_response(response.headers_mut());
        Ok((response, transmission))
    }
}

type Exchanged = (Response<hyper::body::Incoming>, Connection, Transmission);

/// Sends `request` on `connection` and waits for the response's header.
async fn exchange(
    mut connection: Connection,
    mut request: Request<WasiBody>,
    target: &Target,
    first_byte: Duration,
) -> Result<Exchanged, Failure> {
    target.address(&mut request, connection.protocol());
    match tokio::time::timeout(first_byte, connection.send(request)).await {
        Ok(Ok((response, transmission))) => Ok((response, connection, transmission)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure { error: Error::ConnectionReadTimeout, unsent: None }),
    }
}

/// What is needed to send a request again: possible where it has no body and does nothing more when done twice
/// (RFC 9110, section 9.2.2).
struct Replay {
    method: Method,
    header: HeaderMap,
}

impl Replay {
    fn of(request: &Request<WasiBody>) -> Option<Self> {
        (request.method().is_idempotent() && request.body().is_end_stream())
            .then(|| Self { method: request.method().clone(), header: request.headers().clone() })
    }

    fn request(self) -> Request<WasiBody> {
        let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        *request.method_mut() = self.method;
        *request.headers_mut() = self.header;
        request
    }
}

#[derive(Clone, Copy)]
struct Timeouts {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Timeouts {
    const LONGEST: Self = Self {
        connect: Duration::from_secs(10),
        first_byte: Duration::from_secs(600),
        between_bytes: Duration::from_secs(600),
    };

    fn new(asked: RequestOptions) -> Self {
        let bound = |asked: Option<Duration>, longest| asked.map_or(longest, |asked| asked.min(longest));
        Self {
            connect: bound(asked.connect_timeout, Self::LONGEST.connect),
            first_byte: bound(asked.first_byte_timeout, Self::LONGEST.first_byte),
            between_bytes: bound(asked.between_bytes_timeout, Self::LONGEST.between_bytes),
        }
    }
}
