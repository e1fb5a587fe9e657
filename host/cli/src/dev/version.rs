//! What is served at one time: the workers of a project as they were built once.
//!
//! A version that another one replaces is not ended but let go of. Its requests hold what they need; only the list that
//! service bindings look into has to be emptied by hand, because the workers hold it and it holds the workers.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use host_bindings::Services;
use host_config::{Ai, Binding, Main, Project};
use host_inference::engine::Engine;
use host_queues::Queues;
use host_server::{Router, Served, Triggers};

use crate::exit::Failed;
use crate::prepare::{self, Sites, Workshop};

/// How often a replaced version is asked whether its requests have ended.
const LOOK: Duration = Duration::from_millis(200);
/// How long work may go on after the last answer and still call other workers: what `waitUntil` has on Workers.
const AFTERWARDS: Duration = Duration::from_secs(30);
/// How long messages may be handled by the version that took them.
const BATCH: Duration = Duration::from_secs(15 * 60);

/// The inference engine, with what it was made from. It stays while that does: models take long to load.
#[derive(Clone)]
pub(crate) struct Models {
    ai: Ai,
    engine: Engine,
}

impl Models {
    /// The engine of a project: that of `before` where it would be made from the same.
    pub(crate) fn of(project: &Project, before: Option<&Self>) -> Result<Self, Failed> {
        if let Some(same) = before.filter(|before| before.ai == project.ai) {
            return Ok(same.clone());
        }
        if before.is_some() {
            prepare::have_models(project, false)?;
        }
        Ok(Self { ai: project.ai.clone(), engine: prepare::engine(project)? })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    fn is(&self, other: &Self) -> bool {
        self.ai == other.ai
    }
}

/// When a file was written, and how long it is.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The workers of a project, ready to answer.
pub(crate) struct Version {
    pub(crate) project: Project,
    pub(crate) models: Models,
    /// What each worker's program is, so that two can be told apart.
    programs: BTreeMap<String, u64>,
    served: Vec<Served>,
    services: Services,
    /// What starts the workers besides requests, once they are served.
    triggers: Option<Triggers>,
}

impl Version {
    pub(crate) fn new(project: Project, models: Models, sites: Sites, workshop: &Workshop) -> Self {
        let program = |worker: &host_config::Worker| {
            let name = worker.name.as_str();
            (name.to_owned(), program(worker.main.as_ref(), name, workshop))
        };
        let programs = project.workers.iter().map(program).collect();
        Self { project, models, programs, served: sites.served, services: sites.services, triggers: None }
    }

    /// Answers with these workers.
    pub(crate) fn router(&self) -> Router {
        Router::new(self.served.clone())
    }

    /// Lets messages of queues reach the workers. Schedules are run only on demand here, as users of other tools expect.
    pub(crate) fn start_triggers(&mut self, queues: &Queues) -> Result<(), Failed> {
        self.triggers = Some(Triggers::start(&self.project, &self.served, queues, false)?);
        Ok(())
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.project.workers.iter().map(|worker| worker.name.as_str()).collect()
    }

    /// The workers that are not as they were. All of them where their models or their number are not.
    pub(crate) fn changed_since(&self, before: &Self) -> Vec<&str> {
        let mut names = self.names();
        if self.models.is(&before.models) && names.len() == before.project.workers.len() {
            names.retain(|name| {
                self.project.worker(name) != before.project.worker(name)
                    || self.programs.get(*name) != before.programs.get(*name)
            });
        }
        names
    }

    /// Lets go of what was never served.
    pub(crate) fn discard(self) {
        self.services.clear();
    }

    /// Lets go of what `next` has replaced, once nothing needs it.
    pub(crate) fn retire(mut self, next: &Self) {
        let triggers = self.triggers.take();
        triggers.iter().for_each(Triggers::halt);
        let consumes = self.project.workers.iter().any(|worker| !worker.consumers.is_empty());
        let engine = (!self.models.is(&next.models)).then(|| self.models.engine.clone());
        let calls = |worker: &host_config::Worker| {
            worker.bindings.values().any(|binding| matches!(binding, Binding::Service { .. }))
        };
        let calls = self.project.workers.iter().any(calls);
        if !calls && !consumes && engine.is_none() {
            return self.services.clear();
        }
        tokio::spawn(async move {
            if let Some(triggers) = triggers {
                triggers.stop(BATCH).await;
            }
            self.wait_until_idle(if calls { AFTERWARDS } else { Duration::ZERO }).await;
            self.services.clear();
            if let Some(engine) = engine {
                engine.shutdown().await;
            }
        });
    }

    /// Until no request has been under way for `quiet`, or until none can be any more.
    async fn wait_until_idle(&self, quiet: Duration) {
        let wall = self.project.workers.iter().map(|worker| worker.limits.wall).max().unwrap_or_default();
        let last = Instant::now() + wall;
        let mut busy = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let in_flight = self.served.iter().filter_map(|served| served.site.worker()).any(|it| it.in_flight() > 0);
            if in_flight {
                busy = Instant::now();
            }
            if !in_flight && busy.elapsed() >= quiet || Instant::now() >= last {
                return;
            }
        }
    }

    /// Ends the last version. What still handles messages gives them back.
    pub(crate) async fn end(mut self) {
        if let Some(triggers) = self.triggers.take() {
            triggers.stop(Duration::ZERO).await;
        }
        self.services.clear();
        self.models.engine.shutdown().await;
    }
}

fn program(main: Option<&Main>, name: &str, workshop: &Workshop) -> u64 {
    let mut hasher = DefaultHasher::new();
    match main {
        Some(Main::Component(path)) => stamp(path).hash(&mut hasher),
        Some(Main::Cargo(_)) => workshop.cargo_built(name).and_then(stamp).hash(&mut hasher),
        Some(Main::Script(_)) => {
            // The map too: a comment moves lines and changes nothing else.
            for file in workshop.built(name).iter().flat_map(|built| [&built.script, &built.map]) {
                fs::read(file).ok().hash(&mut hasher);
            }
        }
        None => {}
    }
    hasher.finish()
}
