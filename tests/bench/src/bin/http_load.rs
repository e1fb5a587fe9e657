//! A closed-loop load generator: a fixed number of kept-alive HTTP/1.1 connections, each sending its next request
//! when its last one was answered in full.
//!
//! It is the same program for every server it measures, has one thread so that it takes at most one core, and prints
//! one JSON object: requests/s, and latency from the request's start to the last byte of its answer. Closed-loop
//! latency is service time under this concurrency; it leaves out the waiting that an open-loop client would see. It
//! says how long an answer was and in how many pieces it came, so that nobody compares servers that answer differently.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Sends requests and prints how fast they were answered.
#[derive(Parser)]
#[command(after_help = "Examples:\n  http-load --url http://127.0.0.1:8787 --requests 20000 --connections 32\n  \
                        http-load --url http://127.0.0.1:8787/echo --method POST --body input.json")]
struct Arguments {
    /// Where to send requests to.
    #[arg(long)]
    url: Uri,
    /// The requests' method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// A file that is every request's body.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// What the body is.
    #[arg(long, default_value = "application/json")]
    content_type: HeaderValue,
    /// The Host header, where it is not the address itself.
    #[arg(long)]
    host: Option<String>,
    /// Measured requests.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Requests before the measured ones.
    #[arg(long, default_value_t = 2_000)]
    warm_up: usize,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let report = local.block_on(&runtime, run(arguments))?;
    println!("{report}");
    Ok(())
}

/// What every connection needs to know.
struct Load {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    /// Requests not yet taken by a connection.
    left: Cell<usize>,
    /// Microseconds of each answered request.
    latencies: RefCell<Vec<u32>>,
    /// Of the bodies of all answers.
    bytes: Cell<u64>,
    pieces: Cell<u64>,
}

type Connection = SendRequest<Full<Bytes>>;

/// What a failed answer may say in the error.
const QUOTED: usize = 1000;

async fn run(arguments: Arguments) -> Result<serde_json::Value> {
    if arguments.requests == 0 || arguments.connections == 0 {
        bail!("--requests and --connections must be at least 1");
    }
    let authority = arguments.url.authority().context("--url needs a host and a port")?.as_str().to_owned();
    let load = Rc::new(Load::new(&arguments, &authority)?);
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(connect(&authority).await?);
    }
    let (connections, _) = phase(&load, connections, arguments.warm_up).await?;
    load.latencies.replace(Vec::with_capacity(arguments.requests));
    load.bytes.set(0);
    load.pieces.set(0);
    let (_, seconds) = phase(&load, connections, arguments.requests).await?;
    let mut latencies = load.latencies.take();
    latencies.sort_unstable();
    let percentile = |share: f64| latencies.get(((latencies.len() as f64 * share) as usize).min(latencies.len() - 1));
    let each = |total: &Cell<u64>| total.get() as f64 / latencies.len() as f64;
    Ok(json!({
        "requests": latencies.len(),
        "connections": arguments.connections,
        "seconds": seconds,
        "rps": latencies.len() as f64 / seconds,
        "p50_us": percentile(0.50),
        "p90_us": percentile(0.90),
        "p99_us": percentile(0.99),
        "max_us": latencies.last(),
        "bytes": each(&load.bytes),
        "pieces": each(&load.pieces),
    }))
}

impl Load {
    fn new(arguments: &Arguments, authority: &str) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, arguments.host.as_deref().unwrap_or(authority).parse().context("--host is no host")?);
        let body = match &arguments.body {
            Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => Vec::new(),
        };
        if arguments.body.is_some() {
            headers.insert(CONTENT_TYPE, arguments.content_type.clone());
        }
        Ok(Self {
            method: arguments.method.clone(),
            path: arguments.url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers,
            body: body.into(),
            left: Cell::new(0),
            latencies: RefCell::default(),
            bytes: Cell::new(0),
            pieces: Cell::new(0),
        })
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
        }
        Ok(request.body(Full::new(self.body.clone()))?)
    }

    /// Reads an answer to its end.
    async fn read(&self, status: StatusCode, mut body: Incoming) -> Result<()> {
        let (mut bytes, mut pieces, mut quoted) = (0u64, 0u64, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.context("an answer broke off")?.into_data() else { continue };
            bytes += piece.len() as u64;
            pieces += 1;
            if !status.is_success() && quoted.len() < QUOTED {
                quoted.extend_from_slice(&piece);
            }
        }
        if !status.is_success() {
            bail!("the server answered {status}: {}", String::from_utf8_lossy(&quoted));
        }
        if bytes == 0 {
            bail!("the server answered {status} with an empty body");
        }
        self.bytes.set(self.bytes.get() + bytes);
        self.pieces.set(self.pieces.get() + pieces);
        Ok(())
    }
}

async fn connect(authority: &str) -> Result<Connection> {
    let stream = TcpStream::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // A connection that breaks shows as the failed request of its sender.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Sends `requests` requests over all connections; gives the connections back, and the seconds it took.
async fn phase(load: &Rc<Load>, connections: Vec<Connection>, requests: usize) -> Result<(Vec<Connection>, f64)> {
    load.left.set(requests);
    let start = Instant::now();
    let tasks: Vec<_> =
        connections.into_iter().map(|sender| tokio::task::spawn_local(send(load.clone(), sender))).collect();
    let mut connections = Vec::with_capacity(tasks.len());
    for task in tasks {
        connections.push(task.await??);
    }
    Ok((connections, start.elapsed().as_secs_f64()))
}

async fn send(load: Rc<Load>, mut connection: Connection) -> Result<Connection> {
    while let Some(left) = load.left.get().checked_sub(1) {
        load.left.set(left);
        let request = load.request()?;
        let start = Instant::now();
        connection.ready().await.context("the server closed a connection")?;
        let response = connection.send_request(request).await.context("a request failed")?;
        load.read(response.status(), response.into_body()).await?;
        load.latencies.borrow_mut().push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(connection)
}
