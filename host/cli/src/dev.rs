//! `host dev`: serves, watches what the workers are made from, and swaps them when that changes.
//!
//! The server runs beside the rebuilding and knows nothing of it but [`Routes::replace`]: a request ends with the
//! version that it began with, and a version that cannot be made leaves the one before it in place. Rebuilding is one
//! loop with one [`Workshop`], so two builds never meet; what changes meanwhile is noticed when the loop comes back to
//! it, or ends a start that is still waited for.

mod keys;
mod sources;
mod version;
mod watcher;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use host_config::{Dev, Project};
use host_server::{Router, Routes, ServerConfig};
use tokio::sync::watch;

use crate::args::{DevArgs, listen_addresses};
use crate::exit::{Done, Failed};
use crate::prepare::Workshop;
use crate::{prepare, serve, table};
use keys::{Key, Keys};
use version::{Models, Version};
use watcher::Watch;

/// How long requests may go on once the end is asked for. Who develops does not want to wait for a stream to end.
const GRACE: Duration = Duration::from_secs(1);
/// How long the loop may take to leave what it is doing.
const LEAVING: Duration = Duration::from_secs(1);

/// Serves and rebuilds until a signal or a key ends it.
pub(crate) fn run(args: DevArgs) -> Done {
    let project = prepare::project(&args.project)?;
    prepare::have_models(&project, args.pull)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(develop(project, args));
    keys::restore();
    // A build that is under way is not waited for.
    runtime.shutdown_background();
    done
}

async fn develop(project: Project, args: DevArgs) -> Done {
    let ip = args.ip.clone().unwrap_or_else(|| project.dev.ip.clone());
    let port = args.port.unwrap_or(project.dev.port);
    let addresses = listen_addresses(&ip).map_err(|error| Failed::usage(anyhow!(error)))?;
    let config = ServerConfig { scheduled: args.test_scheduled, ..ServerConfig::default() };
    let models = Models::of(&project, None)?;
    let server = serve::bind(&addresses, port, Router::new(Vec::new()), config)?;

    let (stop, mut stopped) = watch::channel(false);
    tokio::spawn(stop_at_signals(Signals::new(), stop.clone()));
    let resources = prepare::resources(&args.project, &project);
    prepare::warn_of_missing_indexes(&project, &resources);
    let bench = Bench {
        workshop: Workshop::open(resources)?,
        watch: Watch::start(),
        routes: server.routes(),
        addresses: server.addresses(),
        ip,
        models,
        dev: project.dev.clone(),
        served: None,
        faulty: false,
        args,
        project,
        stop,
    };
    let work = tokio::spawn(bench.work(Keys::open(), stopped.clone()));
    let stopping = async move {
        // An error means that the loop is gone, which ends the server too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    server.run(stopping, GRACE).await;
    match tokio::time::timeout(LEAVING, work).await {
        Ok(Err(error)) if error.is_panic() => Err(anyhow!("rebuilding has ended: {error}").into()),
        _ => Ok(()),
    }
}

/// Why a version is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// There is none, or something has changed.
    Change,
    /// Somebody asked for it.
    Key,
}

/// What the loop works with.
struct Bench {
    args: DevArgs,
    workshop: Workshop,
    watch: Watch,
    routes: Routes,
    addresses: Vec<SocketAddr>,
    ip: String,
    /// The binding files as they were last read without a fault.
    project: Project,
    /// What the binding files last said about listening.
    dev: Dev,
    /// Those of the version that is served, or will be the first.
    models: Models,
    served: Option<Version>,
    /// Whether the last attempt failed.
    faulty: bool,
    stop: watch::Sender<bool>,
}

impl Bench {
    async fn work(mut self, mut keys: Keys, mut stopped: watch::Receiver<bool>) {
        let mut wanted = Some(Reason::Change);
        loop {
            if let Some(reason) = wanted.take() {
                tokio::select! {
                    biased;
                    again = self.reload(reason) => wanted = again,
                    _ = stopped.wait_for(|stop| *stop) => break,
                }
                continue;
            }
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => break,
                () = self.watch.changed() => wanted = Some(Reason::Change),
                key = keys.next() => match key {
                    Key::Rebuild => wanted = Some(Reason::Key),
                    key => self.press(key),
                },
            }
        }
        if let Some(version) = self.served.take() {
            version.end().await;
        }
    }

    /// Makes a version and serves it, or says why there is none. Gives the reason to do so again at once, where something
    /// has changed while the workers were being started.
    async fn reload(&mut self, reason: Reason) -> Option<Reason> {
        let (started, began) = (Instant::now(), SystemTime::now());
        let made = tokio::select! {
            biased;
            made = make(&self.args, &mut self.project, &self.models, &mut self.workshop) => made,
            () = self.watch.changed() => return Some(reason),
        };
        let watched = sources::of(&self.args.project, &self.project, &self.workshop, made.is_err());
        self.watch.follow(watched, began);
        match made {
            Ok(version) => self.serve(version, reason, started),
            Err(failed) => {
                self.faulty = true;
                failed.print();
                let state = if self.served.is_some() { "the version before goes on" } else { "nothing is served" };
                say(&format!("not reloaded: {state}, waiting for a change"));
            }
        }
        None
    }

    fn serve(&mut self, mut version: Version, reason: Reason, started: Instant) {
        let faulty = std::mem::replace(&mut self.faulty, false);
        self.models = version.models.clone();
        self.advise(&version.project.dev);
        let Some(before) = self.served.take() else {
            return self.begin(version);
        };
        let mut names = version.changed_since(&before);
        if names.is_empty() && reason == Reason::Change {
            // A new version would only forget what the workers keep in globals.
            version.discard();
            self.served = Some(before);
            if faulty {
                say("reloaded: nothing has changed since the version that is served");
            }
            return;
        }
        self.routes.replace(version.router());
        before.retire(&version);
        if names.is_empty() {
            names = version.names();
        }
        say(&format!("reloaded {} in {} ms", names.join(", "), started.elapsed().as_millis()));
        self.start_triggers(&mut version);
        self.served = Some(version);
    }

    /// Serves the first version.
    fn begin(&mut self, mut version: Version) {
        self.routes.replace(version.router());
        say(table::bindings(&version.project).trim_end());
        serve::announce(&self.addresses, &self.ip, version.project.workers.iter().map(|worker| worker.name.as_str()));
        if keys::listening() {
            say(keys::HELP);
        }
        self.start_triggers(&mut version);
        self.served = Some(version);
    }

    fn start_triggers(&self, version: &mut Version) {
        if let Err(failed) = version.start_triggers(self.workshop.resources().queues()) {
            failed.print();
        }
    }

    /// Says what only a restart can do.
    fn advise(&mut self, new: &Dev) {
        let old = std::mem::replace(&mut self.dev, new.clone());
        let moved = self.args.ip.is_none() && new.ip != old.ip || self.args.port.is_none() && new.port != old.port;
        if moved {
            say(&format!("[dev] has changed: to listen on {} port {}, start `host dev` again", new.ip, new.port));
        }
    }

    fn press(&self, key: Key) {
        match key {
            Key::Browser => {
                if let Err(error) = keys::browse(&self.page()) {
                    say(&format!("cannot open a browser: {error}"));
                }
            }
            Key::Clear => keys::clear(),
            Key::Help => say(keys::HELP),
            Key::Exit => {
                self.stop.send_replace(true);
            }
            Key::Rebuild => {}
        }
    }

    /// The address of the first worker.
    fn page(&self) -> String {
        match (self.project.workers.as_slice(), self.addresses.first()) {
            ([first, _, ..], Some(address)) => format!("http://{}.localhost:{}/", first.name, address.port()),
            _ => format!("http://{}/", serve::authority(&self.addresses, &self.ip)),
        }
    }
}

/// Reads the binding files and makes their workers. `project` is what they say, even if a worker of them cannot be made.
async fn make(
    args: &DevArgs,
    project: &mut Project,
    models: &Models,
    workshop: &mut Workshop,
) -> Result<Version, Failed> {
    let loaded = prepare::load(&args.project)?;
    if loaded.warnings != project.warnings {
        for warning in &loaded.warnings {
            eprintln!("{warning}\n");
        }
    }
    *project = loaded;
    let models = Models::of(project, Some(models))?;
    let sites = workshop.sites(project, models.engine()).await.map_err(Failed::usage)?;
    sites.batches.resume();
    Ok(Version::new(project.clone(), models, sites, workshop))
}

/// A line on standard output, which may be closed.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Asks for the end at the first signal. A second one ends the process at once.
async fn stop_at_signals(mut signals: Signals, stop: watch::Sender<bool>) {
    signals.next().await;
    stop.send_replace(true);
    signals.next().await;
    keys::restore();
    std::process::exit(130);
}

/// The signals that would otherwise end the process with the terminal as the keys need it.
#[cfg(unix)]
struct Signals(Vec<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    async fn next(&mut self) {
        std::future::poll_fn(|cx| match self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
