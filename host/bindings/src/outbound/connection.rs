//! One connection to one server, carrying one exchange at a time.
//!
//! A task of its own drives each connection, so that it can outlive the exchange that opened it and wait in the pool.
//! The task belongs to the [`Connection`]: dropping it ends the task and closes the socket, which is how a guest that
//! goes away cancels its request. HTTP/2 connections carry one exchange at a time as well: streams that share a
//! connection share its flow control, and one unread response would stall the others.

use super::error::{self, Error};
use super::target::Protocol;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::WasiBody;

/// Largest response header section, in bytes.
const MAX_HEADER_SECTION: usize = 64 * 1024;
/// Largest read or write buffer of an HTTP/1.1 connection, in bytes.
const MAX_BUFFER: usize = 128 * 1024;
/// What a server may send ahead of the guest's reading over HTTP/2, in bytes.
const HTTP2_WINDOW: u32 = 512 * 1024;

/// An open connection. Dropping it closes the socket and abandons whatever it carries.
pub(super) struct Connection {
    sender: Sender,
    address: SocketAddr,
    outcome: Outcome,
    driver: Driver,
}

enum Sender {
    Http1(http1::SendRequest<WasiBody>),
    Http2(http2::SendRequest<WasiBody>),
}

/// The task that moves a connection's bytes, ended with it.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An exchange that brought no response.
pub(super) struct Failure {
    /// What went wrong.
    pub(super) error: Error,
    /// The request, where nothing of it has been written, so that another connection can carry it.
    pub(super) unsent: Option<Box<Request<WasiBody>>>,
}

/// Where the exchange in flight waits to hear how the connection fared.
#[derive(Clone, Default)]
struct Outcome(Arc<Mutex<Option<End>>>);

/// Tells how the exchange ended.
type End = oneshot::Sender<Result<(), Error>>;

impl Outcome {
    fn watch(&self) -> Transmission {
        let (sender, receiver) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Transmission(receiver)
    }

    fn settle(&self, result: Result<(), Error>) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            // The guest may have stopped listening; then nobody needs the result.
            let _ = waiting.send(result);
        }
    }
}

/// Resolves when an exchange is over: the request has been sent and the response read, or the connection has ended.
///
/// # Errors
/// What ended the connection, where the exchange was cut short. An exchange that the guest itself dropped is no error.
#[must_use = "futures do nothing unless polled"]
pub struct Transmission(oneshot::Receiver<Result<(), Error>>);

impl Future for Transmission {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or(Ok(())))
    }
}

impl Connection {
    /// Speaks `protocol` on `stream`, which is connected to `address`.
    pub(super) async fn open<S>(stream: S, address: SocketAddr, protocol: Protocol) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let outcome = Outcome::default();
        let stream = TokioIo::new(stream);
        let (sender, driver) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_header_size(MAX_HEADER_SECTION)
                    .max_buf_size(MAX_BUFFER)
                    .handshake(stream)
                    .await
                    .map_err(|error| error::from_hyper(&error))?;
                (Sender::Http1(sender), drive(connection, outcome.clone()))
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_header_list_size(MAX_HEADER_SECTION as u32)
                    .initial_stream_window_size(HTTP2_WINDOW)
                    .initial_connection_window_size(HTTP2_WINDOW)
                    .handshake(stream)
                    .await
                    .map_err(|error| error::from_hyper(&error))?;
                (Sender::Http2(sender), drive(connection, outcome.clone()))
            }
        };
        Ok(Self { sender, address, outcome, driver })
    }

    /// The address that was dialled.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is spoken on this connection.
    pub(super) fn protocol(&self) -> Protocol {
        match self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        let sender_closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        sender_closed || self.driver.0.is_finished()
    }

    /// Waits until the connection can carry the next exchange: the last request sent, the last response read.
    pub(super) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender) => sender.ready().await,
        }
    }

    /// Starts an exchange. The request must be addressed for [`Connection::protocol`].
    pub(super) async fn send(
        &mut self,
        request: Request<WasiBody>,
    ) -> Result<(Response<Incoming>, Transmission), Failure> {
        let transmission = self.outcome.watch();
        let response = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        match response {
            Ok(response) => Ok((response, transmission)),
            Err(mut failure) => {
                let unsent = failure.take_message().map(Box::new);
                Err(Failure { error: error::from_hyper(failure.error()), unsent })
            }
        }
    }

    /// Tells the exchange that it is over and went well.
    pub(super) fn settle(&self) {
        self.outcome.settle(Ok(()));
    }
}

fn drive<C>(connection: C, outcome: Outcome) -> Driver
where
    C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    let task = tokio::spawn(async move {
        let result = connection.await.map_err(|error| error::from_hyper(&error));
        outcome.settle(result);
    });
    Driver(task.abort_handle())
}
