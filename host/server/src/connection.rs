//! Sockets, connections and the end of both.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use host_bindings::{Answerer, Bindings, Site};
use host_runtime::{RequestIds, ResponseBody, Worker};
use http::header::HeaderValue;
use http::uri::{Scheme, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::scheduled::Call;
use crate::write_timeout::WriteTimeout;
use crate::{Page, Router};

/// How a server treats its peers.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Connections open at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Time for a request's head to arrive, and for a connection to stay idle between two.
    pub head_timeout: Duration,
    /// Time a write may wait for a peer that does not read.
    pub write_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Requests under way on one HTTP/2 connection.
    pub streams: u32,
    /// Whether two addresses of every worker call its `scheduled` handler: for development.
    pub scheduled: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            head_bytes: 64 << 10,
            streams: 128,
            scheduled: false,
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Listening sockets and what answers on them.
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

/// The workers that a running server answers with.
#[derive(Clone)]
pub struct Routes(Arc<Shared>);

impl Routes {
    /// Lets `router` answer every request from now on. Requests under way end with what they began with.
    pub fn replace(&self, router: Router) {
        *self.0.router.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(router);
    }
}

struct Shared {
    router: RwLock<Arc<Router>>,
    config: ServerConfig,
    connections: Arc<Semaphore>,
    http: auto::Builder<TokioExecutor>,
    /// For requests that reach no worker.
    ids: RequestIds,
}

impl Server {
    /// Listens on every address, or on none.
    pub fn bind(addresses: &[SocketAddr], router: Router, config: ServerConfig) -> Result<Self, BindError> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let mut address = *address;
            if address.port() == 0
                && let Some(first) = listeners.first().and_then(|listener| listener.local_addr().ok())
            {
                // The system chose a port for the first address; the others take the same.
                address.set_port(first.port());
            }
            listeners.push(listen(address).map_err(|source| BindError { address, source })?);
        }
        let connections = Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS)));
        let http = http(&config);
        Ok(Self {
            listeners,
            shared: Arc::new(Shared {
                router: RwLock::new(Arc::new(router)),
                config,
                connections,
                http,
                ids: RequestIds::new(),
            }),
        })
    }

    /// The addresses listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// What replaces the workers of this server while it runs.
    pub fn routes(&self) -> Routes {
        Routes(self.shared.clone())
    }

    /// Answers until `stop` is ready, then takes no more requests, lets those under way end, and cuts off what has not
    /// ended after `grace`. Gives the number of connections that were cut off.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> usize {
        let graceful = Arc::new(GracefulShutdown::new());
        let tracker = TaskTracker::new();
        let accepting =
            join_all(self.listeners.into_iter().map(|listener| accept(listener, &self.shared, &graceful, &tracker)));
        tokio::select! {
            _ = accepting => {}
            () = stop => {}
        }
        tracker.close();
        let drained = async {
            if let Some(graceful) = Arc::into_inner(graceful) {
                graceful.shutdown().await;
            }
            tracker.wait().await;
        };
        let _ = tokio::time::timeout(grace, drained).await;
        tracker.len()
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the last run's connections to be forgotten.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn http(config: &ServerConfig) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_buf_size(config.head_bytes.max(8 << 10));
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams)
        .max_header_list_size(config.head_bytes.min(u32::MAX as usize) as u32)
        .keep_alive_interval(config.head_timeout)
        .keep_alive_timeout(config.head_timeout);
    http
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>, graceful: &Arc<GracefulShutdown>, tracker: &TaskTracker) {
    loop {
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, shared, graceful, tracker, permit),
            Err(error) => {
                // Out of descriptors or a peer that is gone already: neither is a reason to stop, and the first needs time.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn serve(
    stream: TcpStream,
    shared: &Arc<Shared>,
    graceful: &GracefulShutdown,
    tracker: &TaskTracker,
    permit: OwnedSemaphorePermit,
) {
    // Tokens are small writes that must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(WriteTimeout::new(stream, shared.config.write_timeout));
    let service = service_fn({
        let shared = shared.clone();
        move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        }
    });
    let connection = graceful.watch(shared.http.serve_connection(stream, service).into_owned());
    tracker.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("connection ended: {error}");
        }
        drop(permit);
    });
}

/// A worker's body, a page, or a file.
type Answer = http::Response<Either<ResponseBody, Either<Full<Bytes>, host_assets::Body>>>;

impl Shared {
    async fn answer(&self, mut request: http::Request<Incoming>) -> Answer {
        let host = request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok()));
        let Some(host) = host else { return page(&Page::no_host(), &self.ids.next()) };
        let router = self.router.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(site) = router.find(host, request.uri().path()) else {
            let none = router.sites().is_empty();
            let missing = if none { Page::nothing_served() } else { Page::no_worker(host) };
            return page(&missing, &self.ids.next());
        };
        if let Some(uri) = absolute(request.uri(), host) {
            *request.uri_mut() = uri;
        }
        match (site.worker(), Call::of(request.uri())) {
            (Some(worker), Some(call)) if self.config.scheduled => schedule(worker, &call).await,
            _ => self.ask(site, request).await,
        }
    }

    async fn ask(&self, site: &Site, request: http::Request<Incoming>) -> Answer {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        match site.answerer(&head).await {
            Answerer::Worker(worker) => run(worker, http::Request::from_parts(head, body)).await,
            Answerer::Nobody => page(&Page::no_worker(site.name()), &self.ids.next()),
            Answerer::Files(response) => {
                let id = self.ids.next();
                let mut answer = response.map(|body| Either::Right(Either::Right(body)));
                name_request(&mut answer, &id);
                log_access(site.name(), &id, &answer, started, &head.method, head.uri.path());
                answer
            }
        }
    }
}

/// The whole address of a request whose target is a path, so that a guest sees one address whichever version of HTTP its
/// client speaks. None where nothing is to be added, or the header is no authority.
fn absolute(target: &Uri, host: &str) -> Option<Uri> {
    let mut parts = target.clone().into_parts();
    if parts.authority.is_some() {
        return None;
    }
    parts.authority = Some(host.parse().ok()?);
    parts.scheme = Some(Scheme::HTTP);
    Uri::from_parts(parts).ok()
}

async fn schedule(worker: &Worker<Bindings>, call: &Call) -> Answer {
    let context = worker.admit();
    if let Err(fault) = call.run(worker, &context).await {
        return page(&fault, context.id());
    }
    let mut answer =
        http::Response::new(Either::Right(Either::Left(Full::new(Bytes::from_static(call.done.as_bytes())))));
    name_request(&mut answer, context.id());
    answer
}

async fn run(worker: &Worker<Bindings>, request: http::Request<Incoming>) -> Answer {
    let context = worker.admit();
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = match worker.handle(&context, request).await {
        Ok(response) => {
            let mut response = response.map(Either::Left);
            name_request(&mut response, context.id());
            response
        }
        Err(failure) => page(&Page::from(&failure), context.id()),
    };
    log_access(worker.name(), context.id(), &answer, started, &method, &path);
    answer
}

fn log_access(worker: &str, request: &str, answer: &Answer, started: Instant, method: &http::Method, path: &str) {
    tracing::debug!(
        target: "access",
        worker,
        request,
        status = answer.status().as_u16(),
        ms = started.elapsed().as_millis() as u64,
        "{method} {path}"
    );
}

fn page(page: &Page, request_id: &str) -> Answer {
    let mut answer = page.response(request_id).map(|body| Either::Right(Either::Left(body)));
    name_request(&mut answer, request_id);
    answer
}

fn name_request<B>(response: &mut http::Response<B>, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-request-id", id);
    }
}
