//! `host serve`.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use host_config::Project;
use host_inference::engine::Engine;
use host_server::{Router, Server, ServerConfig, Triggers};
use tokio::sync::oneshot;

use crate::args::{ServeArgs, listen_addresses};
use crate::exit::{Done, Failed};
use crate::prepare::Workshop;
use crate::{prepare, table};

/// Serves until a signal to stop, then drains.
pub(crate) fn run(args: ServeArgs) -> Done {
    let project = prepare::project(&args.project)?;
    prepare::have_models(&project, args.pull)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(project, &args))
}

async fn serve(project: Project, args: &ServeArgs) -> Done {
    let engine = prepare::engine(&project)?;
    let resources = prepare::resources(&args.project, &project);
    prepare::warn_of_missing_indexes(&project, &resources);
    let queues = resources.queues().clone();
    let sites = Workshop::open(resources)?.sites(&project, &engine).await.map_err(Failed::usage)?;
    let ip = args.ip.as_deref().unwrap_or(&project.dev.ip);
    let port = args.port.unwrap_or(project.dev.port);
    let addresses = listen_addresses(ip).map_err(|error| Failed::usage(anyhow!(error)))?;
    let server = bind(&addresses, port, Router::new(sites.served.clone()), ServerConfig::default())?;

    if args.warm {
        warm(&engine, project.ai.aliases.values()).await;
    }
    print!("{}", table::bindings(&project));
    announce(&server.addresses(), ip, project.workers.iter().map(|worker| worker.name.as_str()));

    sites.batches.resume();
    let triggers = Triggers::start(&project, &sites.served, &queues, true)?;
    let grace = Duration::from_secs(args.grace);
    let (halted, at) = oneshot::channel();
    let stop = async {
        stop_signal().await;
        triggers.halt();
        let _ = halted.send(Instant::now());
    };
    let cut_off = server.run(stop, grace).await;
    let left = at.await.map_or(Duration::ZERO, |at| grace.saturating_sub(at.elapsed()));
    let late = triggers.stop(left).await;
    sites.services.clear();
    engine.shutdown().await;
    if cut_off > 0 {
        tracing::warn!("{cut_off} connections did not end within {} s and were cut off", args.grace);
    }
    if late > 0 {
        tracing::warn!("{late} handlers of events did not end within {} s and were cut off", args.grace);
    }
    Ok(())
}

/// Listens on every address that this machine has: `localhost` is two, and a container may have only one of them.
pub(crate) fn bind(addresses: &[IpAddr], port: u16, router: Router, config: ServerConfig) -> Result<Server, Failed> {
    let usable: Vec<SocketAddr> = addresses
        .iter()
        .filter(|address| addresses.len() == 1 || std::net::TcpListener::bind((**address, 0)).is_ok())
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    Server::bind(&usable, router, config).map_err(|error| {
        let next = port.saturating_add(1);
        Failed::from(anyhow!("{error}; choose another port with --port {next}, or stop what listens there"))
    })
}

pub(crate) async fn warm(engine: &Engine, models: impl Iterator<Item = &String>) {
    for model in models {
        if let Err(error) = engine.warm(model).await {
            tracing::warn!("cannot load {model}: {error}");
        }
    }
}

/// Says where the workers of these names answer.
pub(crate) fn announce<'a>(addresses: &[SocketAddr], ip: &str, names: impl ExactSizeIterator<Item = &'a str>) {
    let mut text = String::from("\n");
    let host = authority(addresses, ip);
    if names.len() == 1 {
        text += &format!("  curl http://{host}/\n");
    } else {
        let port = addresses.first().map_or(0, SocketAddr::port);
        names.for_each(|name| text += &format!("  curl http://{name}.localhost:{port}/\n"));
    }
    // Whoever closed standard output is served all the same.
    let _ = writeln!(std::io::stdout(), "{text}\nReady on http://{host}");
}

/// What stands for a server in a URL.
pub(crate) fn authority(addresses: &[SocketAddr], ip: &str) -> String {
    match addresses.first() {
        Some(address) if ip != "localhost" => address.to_string(),
        first => format!("localhost:{}", first.map_or(0, SocketAddr::port)),
    }
}

/// Ready at the first SIGINT or SIGTERM. A second one ends the process at once.
pub(crate) async fn stop_signal() {
    wait_for_signal().await;
    tracing::info!("stopping; requests under way may end (a second signal stops at once)");
    tokio::spawn(async {
        wait_for_signal().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
