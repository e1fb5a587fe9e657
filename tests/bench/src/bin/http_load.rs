//! A closed-loop load generator: a fixed number of kept-alive HTTP/1.1 connections, each sending its next request
//! when its last one was answered in full.
//!
//! It is the same program for every server it measures, has one thread so that it takes at most one core, and prints
//! one JSON object: requests/s, and latency from the request's start to the last byte of its answer. Closed-loop
//! latency is service time under this concurrency; it leaves out the waiting that an open-loop client would see.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Sends requests and prints how fast they were answered.
#[derive(Parser)]
#[command(after_help = "Example:\n  http-load --url http://127.0.0.1:8787 --requests 20000 --connections 32")]
struct Arguments {
    /// Where to send GET requests to.
    #[arg(long)]
    url: Uri,
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
    path: String,
    host: String,
    /// Requests not yet taken by a connection.
    left: Cell<usize>,
    /// Microseconds of each answered request.
    latencies: RefCell<Vec<u32>>,
}

async fn run(arguments: Arguments) -> Result<serde_json::Value> {
    if arguments.requests == 0 || arguments.connections == 0 {
        bail!("--requests and --connections must be at least 1");
    }
    let authority = arguments.url.authority().context("--url needs a host and a port")?.as_str().to_owned();
    let load = Rc::new(Load {
        path: arguments.url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        host: arguments.host.unwrap_or_else(|| authority.clone()),
        left: Cell::new(0),
        latencies: RefCell::new(Vec::new()),
    });
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(connect(&authority).await?);
    }
    let (connections, _) = phase(&load, connections, arguments.warm_up).await?;
    load.latencies.replace(Vec::with_capacity(arguments.requests));
    let (_, seconds) = phase(&load, connections, arguments.requests).await?;
    let mut latencies = load.latencies.take();
    latencies.sort_unstable();
    let percentile = |share: f64| latencies.get(((latencies.len() as f64 * share) as usize).min(latencies.len() - 1));
    Ok(json!({
        "requests": latencies.len(),
        "connections": arguments.connections,
        "seconds": seconds,
        "rps": latencies.len() as f64 / seconds,
        "p50_us": percentile(0.50),
        "p90_us": percentile(0.90),
        "p99_us": percentile(0.99),
        "max_us": latencies.last(),
    }))
}

async fn connect(authority: &str) -> Result<SendRequest<Empty<Bytes>>> {
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
async fn phase(
    load: &Rc<Load>,
    connections: Vec<SendRequest<Empty<Bytes>>>,
    requests: usize,
) -> Result<(Vec<SendRequest<Empty<Bytes>>>, f64)> {
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

async fn send(load: Rc<Load>, mut sender: SendRequest<Empty<Bytes>>) -> Result<SendRequest<Empty<Bytes>>> {
    while let Some(left) = load.left.get().checked_sub(1) {
        load.left.set(left);
        let request = Request::get(&load.path).header("host", &load.host).body(Empty::new())?;
        let start = Instant::now();
        sender.ready().await.context("the server closed a connection")?;
        let response = sender.send_request(request).await.context("a request failed")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("an answer broke off")?.to_bytes();
        if !status.is_success() {
            bail!("the server answered {status}: {}", String::from_utf8_lossy(&body));
        }
        if body.is_empty() {
            bail!("the server answered {status} with an empty body");
        }
        load.latencies.borrow_mut().push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(sender)
}
