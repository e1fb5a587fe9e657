//! Connections to one server: opened within a time, used by one exchange at a time, kept for the next.
//!
//! HTTP/1.1 alone is spoken. An inference server's answers are long, so what a shared connection saves is nothing beside
//! what one unread answer on it would hold up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{Address, UpstreamError};

/// How long a name, a connection and TLS may take together.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// Largest head of an answer, in bytes and in fields.
const MAX_HEAD: usize = 64 << 10;
const MAX_FIELDS: usize = 128;
/// Connections kept for later, and for how long.
const IDLE: usize = 32;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// An open connection. Dropping it closes the socket and gives up what it carries.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// The task that moves a connection's bytes, ended with it.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Sends a request and waits for the answer's head.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

/// Opens a connection to `address`.
pub(crate) async fn open(address: &Address, tls: &TlsConnector) -> Result<Connection, UpstreamError> {
    match timeout(CONNECT, dial(address, tls)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(reason)) => Err(UpstreamError::Unreachable { upstream: address.to_string(), reason }),
        Err(_) => {
            Err(UpstreamError::Timeout { upstream: address.to_string(), what: "made no connection", limit: CONNECT })
        }
    }
}

async fn dial(address: &Address, tls: &TlsConnector) -> Result<Connection, String> {
    let found = tokio::net::lookup_host((address.host(), address.port())).await.map_err(|error| error.to_string())?;
    let found: Vec<SocketAddr> = found.take(ADDRESSES).collect();
    let mut last = "its name has no address".to_owned();
    for socket in found {
        match TcpStream::connect(socket).await {
            Ok(stream) => {
                // An answer that streams is many small writes; the other side's matter, but requests are small too.
                let _ = stream.set_nodelay(true);
                return speak(stream, address, tls).await;
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn speak(stream: TcpStream, address: &Address, tls: &TlsConnector) -> Result<Connection, String> {
    if !address.secure() {
        return handshake(stream).await;
    }
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| error.to_string())?;
    let stream = tls.connect(name, stream).await.map_err(|error| error.to_string())?;
    handshake(stream).await
}

async fn handshake<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .max_buf_size(2 * MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a server has ended");
        }
    });
    Ok(Connection { sender, driver: Driver(driver.abort_handle()) })
}

/// Connections that wait for their next exchange.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<Mutex<Vec<(Connection, Instant)>>>);

impl Idle {
    /// The one that was used last, if it is still open.
    pub(crate) fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < IDLE_TIME);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(crate) fn keep(&self, connection: Connection) {
        if connection.sender.is_closed() || connection.driver.0.is_finished() {
            return;
        }
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push((connection, Instant::now()));
        }
    }
}
