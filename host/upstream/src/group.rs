//! Servers that answer alike, and which of them is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use rand::Rng as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::answer::{Answer, shown};
use crate::breaker::Breaker;
use crate::connection::{self, Connection, Idle};
use crate::{Address, UpstreamError};

/// The pause before a second attempt on the same server; it doubles with each, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The longest a caller is made to wait because a server said so; past it the caller is told instead.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);
/// How long a health check may take.
const CHECK: Duration = Duration::from_secs(5);

/// A key, and the header that it goes in. Nothing prints it.
#[derive(Clone)]
pub struct Key {
    header: HeaderName,
    value: HeaderValue,
    /// The key alone, which no answer shows.
    secret: Bytes,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({}: …)", self.header)
    }
}

impl Key {
    /// A key that goes as `authorization: Bearer …`. None for one that no header can hold.
    pub fn bearer(key: &str) -> Option<Self> {
        Self::new(AUTHORIZATION, &format!("Bearer {key}"), key)
    }

    /// A key that goes as the header `name`.
    pub fn header(name: &'static str, key: &str) -> Option<Self> {
        Self::new(HeaderName::from_static(name), key, key)
    }

    fn new(header: HeaderName, value: &str, key: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self { header, value, secret: Bytes::copy_from_slice(key.as_bytes()) })
    }
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the head of an answer, and for each piece of its body.
    pub answer: Duration,
}

/// How often a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in all, at least 1.
    pub attempts: u32,
}

/// What a set of servers is made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// At least one.
    pub addresses: Vec<Address>,
    /// What they are shown.
    pub key: Option<Key>,
    /// How long they are waited for.
    pub patience: Patience,
    /// How often a call is tried.
    pub retries: Retries,
    /// The path that a health check gets, below the address. Any answer but an error of the server is health.
    pub health: String,
}

/// A request, which may be sent more than once.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The path, below the server's address.
    pub path: String,
    /// The header, without `host` and the key.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Servers that answer alike. Clones share everything.
#[derive(Clone)]
pub struct Upstreams(Arc<Inner>);

struct Inner {
    servers: Vec<Arc<Server>>,
    retries: Retries,
    /// Where the search for the least busy one begins, so that equals take turns.
    turn: AtomicUsize,
}

struct Server {
    address: Address,
    key: Option<Key>,
    tls: TlsConnector,
    idle: Idle,
    outstanding: AtomicUsize,
    breaker: Mutex<Breaker>,
    patience: Duration,
    health: String,
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Upstreams").field(&self.addresses()).finish()
    }
}

impl Upstreams {
    /// Servers that are not asked anything yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, or there is no server.
    pub fn new(settings: Settings) -> Result<Self, UpstreamError> {
        if settings.addresses.is_empty() {
            return Err(UpstreamError::Request("no server is named".to_owned()));
        }
        let tls = tls().map_err(|error| UpstreamError::Request(format!("TLS cannot be set up: {error}")))?;
        let server = |address: Address| {
            Arc::new(Server {
                address,
                key: settings.key.clone(),
                tls: tls.clone(),
                idle: Idle::default(),
                outstanding: AtomicUsize::new(0),
                breaker: Mutex::default(),
                patience: settings.patience.answer,
                health: settings.health.clone(),
            })
        };
        let servers = settings.addresses.iter().cloned().map(server).collect();
        Ok(Self(Arc::new(Inner { servers, retries: settings.retries, turn: AtomicUsize::new(0) })))
    }

    /// The servers' addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.0.servers.iter().map(|server| server.address.to_string()).collect()
    }

    /// Makes attempts until one succeeds, none is left, or an error comes that another attempt would not change. An
    /// attempt ends with everything that makes a retry impossible: what it gives must not have been used by anybody yet.
    ///
    /// Dropping the future gives up the attempt under way.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn run<T, F>(&self, mut attempt: impl FnMut(Attempt) -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let mut tried = vec![false; self.0.servers.len()];
        let mut made = 0;
        loop {
            let (at, place) = self.choose(&tried)?;
            let again = std::mem::replace(&mut tried[at], true);
            made += 1;
            let error = match attempt(Attempt { place }).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.may_be_retried() || made >= self.0.retries.attempts {
                return Err(error);
            }
            tracing::debug!(%error, attempt = made, "a server failed; the call is tried again");
            let now = Instant::now();
            // A server that has not failed this call may be asked at once; the same one gets a pause.
            let other = (0..tried.len()).any(|at| !tried[at] && self.0.servers[at].is_up(now));
            if other && !again {
                continue;
            }
            let said = error.retry_after().filter(|_| tried.len() == 1 || !other);
            if said.is_some_and(|said| said > LONGEST_RETRY_AFTER) {
                return Err(error);
            }
            tokio::time::sleep(said.unwrap_or_else(|| pause(made))).await;
        }
    }

    /// The server that has the fewest calls under way: of those that this call has not tried, of those that are not
    /// busy, of those that are up.
    fn choose(&self, tried: &[bool]) -> Result<(usize, Place), UpstreamError> {
        let (now, servers) = (Instant::now(), &self.0.servers);
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = (0..servers.len())
            .map(|step| turn.wrapping_add(step) % servers.len())
            .filter(|at| servers[*at].is_up(now))
            .min_by_key(|at| {
                let server = &servers[*at];
                (tried[*at], server.breaker().is_busy(now), server.outstanding.load(Ordering::Relaxed))
            });
        match chosen {
            Some(at) => Ok((at, Place::new(servers[at].clone()))),
            None => Err(UpstreamError::AllDown {
                upstreams: self.addresses().join(", "),
                retry_after: servers
                    .iter()
                    .filter_map(|server| server.breaker().resting(now))
                    .min()
                    .unwrap_or_default(),
            }),
        }
    }
}

/// A pause with jitter, so that callers that failed together do not come back together.
fn pause(made: u32) -> Duration {
    let longest = PAUSE.saturating_mul(1 << (made - 1).min(10)).min(LONGEST_PAUSE);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn tls() -> Result<TlsConnector, rustls::Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // The provider is named so that no process-wide choice made elsewhere decides what protects this traffic.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One attempt of a call, on the server that was chosen for it.
pub struct Attempt {
    place: Place,
}

impl Attempt {
    /// Sends a request and waits for the answer's head, whatever its status.
    ///
    /// # Errors
    /// When there is no connection, or no head in time or of a bearable size.
    pub async fn send(self, ask: &Ask) -> Result<Answer, UpstreamError> {
        let Self { place } = self;
        let server = place.0.clone();
        let answered = async {
            if let Some(connection) = server.idle.take() {
                match server.exchange(connection, ask).await {
                    // The server may have closed it while it waited, which says nothing about this request.
                    Err(Exchange::Closed(_)) => {}
                    Err(Exchange::Failed(error)) => return Err(error),
                    Ok(exchanged) => return Ok(exchanged),
                }
            }
            let connection = connection::open(&server.address, &server.tls).await?;
            server.exchange(connection, ask).await.map_err(|failed| match failed {
                Exchange::Closed(error) | Exchange::Failed(error) => error,
            })
        };
        let (head, body, connection) = answered.await.inspect_err(|error| place.report(error))?;
        let answer = Answer::new(head, body, connection, place, server.patience);
        match answer.status {
            429 | 529 | 503 => answer.server_is_busy(&server),
            500.. => Server::failed(&server),
            // Whether it is well is seen at the end of its answer.
            _ => {}
        }
        Ok(answer)
    }
}

impl Answer {
    fn server_is_busy(&self, server: &Arc<Server>) {
        server.breaker().busy(Instant::now(), self.retry_after().unwrap_or(PAUSE));
        if self.status == 503 {
            Server::failed(server);
        }
    }
}

/// Why a connection brought no answer.
enum Exchange {
    /// It was closed.
    Closed(UpstreamError),
    Failed(UpstreamError),
}

type Exchanged = (http::response::Parts, hyper::body::Incoming, Connection);

impl Server {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_up(&self, now: Instant) -> bool {
        self.breaker().resting(now).is_none()
    }

    /// Counts a failure, and starts the health checks when it was one too many.
    fn failed(server: &Arc<Self>) {
        if server.breaker().failed(Instant::now()) {
            tracing::warn!(upstream = %server.address, "a server fails again and again and is left alone");
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(check_until_up(Arc::downgrade(server)));
            }
        }
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let path = self.address.path(&ask.path);
        let path = path.ok_or_else(|| UpstreamError::Request(format!("{:?} is no path", ask.path)))?;
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = path.into();
        *request.headers_mut() = ask.headers.clone();
        let host = HeaderValue::from_str(&self.address.authority());
        let host = host.map_err(|error| UpstreamError::Request(error.to_string()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static("host"));
        if let Some(Key { header, value, .. }) = &self.key {
            request.headers_mut().insert(header, value.clone());
        }
        Ok(request)
    }

    async fn exchange(&self, mut connection: Connection, ask: &Ask) -> Result<Exchanged, Exchange> {
        let request = self.request(ask).map_err(Exchange::Failed)?;
        let upstream = || self.address.to_string();
        match timeout(self.patience, connection.send(request)).await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                if head.status.is_informational() {
                    let reason = format!("its status is {}", head.status);
                    return Err(Exchange::Failed(UpstreamError::Broken { upstream: upstream(), reason }));
                }
                Ok((head, body, connection))
            }
            Ok(Err(error)) => {
                let closed =
                    error.is_closed() || error.is_canceled() || error.is_incomplete_message() || was_reset(&error);
                let told = UpstreamError::Broken { upstream: upstream(), reason: shown(&error) };
                Err(if closed { Exchange::Closed(told) } else { Exchange::Failed(told) })
            }
            Err(_) => {
                let what = "did not begin to answer";
                Err(Exchange::Failed(UpstreamError::Timeout { upstream: upstream(), what, limit: self.patience }))
            }
        }
    }

    /// Whether the server answers a health check.
    async fn is_well(&self) -> bool {
        let ask = Ask { method: Method::GET, path: self.health.clone(), headers: HeaderMap::new(), body: Bytes::new() };
        let check = async {
            let connection = connection::open(&self.address, &self.tls).await.ok()?;
            let (head, ..) = self.exchange(connection, &ask).await.ok()?;
            Some(head.status.as_u16())
        };
        matches!(timeout(CHECK, check).await, Ok(Some(status)) if status < 500)
    }
}

/// Whether the other side had closed the connection, as the system tells it where a request was already on its way.
fn was_reset(error: &hyper::Error) -> bool {
    use std::io::{Error, ErrorKind};
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
    })
}

/// Asks a server that is left alone after its health until it is well, or nobody uses it any more.
async fn check_until_up(server: Weak<Server>) {
    loop {
        let Some(rest) = server.upgrade().map(|server| server.breaker().resting(Instant::now())) else { return };
        let Some(rest) = rest else { return };
        tokio::time::sleep(rest).await;
        let Some(server) = server.upgrade() else { return };
        if server.is_well().await {
            tracing::info!(upstream = %server.address, "a server answers again");
            server.breaker().succeeded();
            return;
        }
        let rest = server.breaker().still_down(Instant::now());
        tracing::debug!(upstream = %server.address, ?rest, "a server is still down");
    }
}

/// A call's place among those under way on a server.
pub(crate) struct Place(Arc<Server>);

impl Place {
    fn new(server: Arc<Server>) -> Self {
        server.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(server)
    }

    pub(crate) fn address(&self) -> String {
        self.0.address.to_string()
    }

    /// The key that the server was shown.
    pub(crate) fn secret(&self) -> Option<Bytes> {
        self.0.key.as_ref().map(|key| key.secret.clone())
    }

    pub(crate) fn keep(&self, connection: Connection) {
        self.0.idle.keep(connection);
    }

    pub(crate) fn succeeded(&self) {
        self.0.breaker().succeeded();
    }

    pub(crate) fn report(&self, error: &UpstreamError) {
        if error.is_fault_of_server() {
            Server::failed(&self.0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
