//! From an endpoint to an open connection, with the filter in between.
//!
//! A name is looked up once, every answer is judged, and the socket is opened to an address that passed, given as an
//! address. There is no second lookup that could answer differently, so a name that changes between check and use (DNS
//! rebinding) gains nothing. TLS then proves the name to whoever answers at that address.
//!
//! Lookup and socket stand behind [`Network`], so that tests can answer names as an adversary would.

use super::connection::Connection;
use super::error::{self, Error};
use super::policy::Policy;
use super::target::{Endpoint, Host, Protocol};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// How long one address may take before the next is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one answer that are looked at. A longer answer is no more useful, and each may cost an attempt.
const ADDRESSES: usize = 16;
/// Lookups in flight. Each holds a thread of the runtime's blocking pool until the system's resolver gives up.
const LOOKUPS: usize = 64;

/// Names to addresses, and addresses to sockets.
pub(super) trait Network: Send + Sync + 'static {
    /// Looks up the addresses of `host`.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;

    /// Opens a connection to `address`.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The system's resolver and sockets.
pub(super) struct System {
    lookups: Arc<Semaphore>,
}

impl System {
    pub(super) fn new() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Network for System {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let place = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            // A task of its own: a caller that times out does not stop the system's resolver, and the place is taken
            // for as long as the thread is.
            let lookup = tokio::spawn(async move {
                let answer = tokio::net::lookup_host((host, 0)).await;
                drop(place);
                answer.map(|addresses| addresses.take(ADDRESSES).map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

/// Opens a connection to `endpoint` at an address that `policy` permits, within `limit` for lookup, socket and TLS.
pub(super) async fn dial(
    network: &dyn Network,
    tls: &TlsConnector,
    policy: &Policy,
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<Connection, Error> {
    let deadline = Instant::now() + limit;
    let found = timeout_at(deadline, lookup(network, &endpoint.host)).await.map_err(|_| Error::DnsTimeout)??;
    let addresses: Vec<_> =
        found.into_iter().take(ADDRESSES).map(|address| SocketAddr::new(address, endpoint.port)).collect();
    let permitted = policy.filter(endpoint, &addresses)?;
    timeout_at(deadline, async {
        let (stream, address) =
            connect_any(network, alternate(permitted)).await.map_err(|error| error::from_io(&error))?;
        if !endpoint.secure {
            return Connection::open(stream, address, Protocol::Http1).await;
        }
        let name = server_name(&endpoint.host)?;
        let stream = tls.connect(name, stream).await.map_err(|error| error::from_io(&error))?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Connection::open(stream, address, protocol).await
    })
    .await
    .map_err(|_| Error::ConnectionTimeout)?
}

async fn lookup(network: &dyn Network, host: &Host) -> Result<Vec<IpAddr>, Error> {
    match host {
        Host::Address(address) => Ok(vec![*address]),
        Host::Name(name) => network.resolve(name).await.map_err(|error| {
            tracing::debug!(%error, name, "outbound name lookup failed");
            Error::DnsError { rcode: None, info_code: None }
        }),
    }
}

/// The name that the server's certificate must be for.
fn server_name(host: &Host) -> Result<ServerName<'static>, Error> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(_) => {
            let name = host.name().unwrap_or_default().to_owned();
            ServerName::try_from(name).map_err(|_| Error::HttpRequestUriInvalid)
        }
    }
}

/// Orders addresses so that the families take turns, the resolver's first choice first (RFC 8305, section 4).
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut ordered: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    ordered.extend(second);
    ordered
}

/// Connects to the first of `addresses` that answers: each gets a head start over the next, a failure ends it early.
/// The error is the first one, since that address was the likeliest to work.
async fn connect_any(network: &dyn Network, addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut untried = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(address) = untried.next() {
            attempts.push(async move { network.connect(address).await.map(|stream| (stream, address)) });
        }
        tokio::select! {
            finished = attempts.next() => match finished {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if untried.len() > 0 => {}
        }
    }
}
