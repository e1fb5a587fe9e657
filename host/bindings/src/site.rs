//! What answers under one name: a worker, its static files, or both.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use host_assets::{Answer, Asked, Assets, Turn};
use host_runtime::Worker;
use http::request::Parts;

use crate::Bindings;

/// A worker with its static files. At least one of them is there. Cheap to clone.
#[derive(Clone)]
pub struct Site {
    name: Arc<str>,
    worker: Option<Worker<Bindings>>,
    assets: Option<Assets>,
}

/// Who answers a request.
pub enum Answerer<'a> {
    /// The files have.
    Files(http::Response<host_assets::Body>),
    /// The worker is to.
    Worker(&'a Worker<Bindings>),
    /// Nobody: there is neither.
    Nobody,
}

impl Site {
    /// A site of this name.
    pub fn new(name: &str, worker: Option<Worker<Bindings>>, assets: Option<Assets>) -> Self {
        Self { name: name.into(), worker, assets }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its worker, if it is not made of files alone.
    pub fn worker(&self) -> Option<&Worker<Bindings>> {
        self.worker.as_ref()
    }

    /// Lets the files answer where their settings say so, else names the worker.
    pub async fn answerer(&self, request: &Parts) -> Answerer<'_> {
        let Some(assets) = &self.assets else {
            return self.worker.as_ref().map_or(Answerer::Nobody, Answerer::Worker);
        };
        let asked = Asked::of(request);
        let Some(worker) = &self.worker else { return Answerer::Files(assets.fetch(&asked).await) };
        match assets.turn(asked.path) {
            Turn::Worker => Answerer::Worker(worker),
            Turn::Assets => Answerer::Files(assets.fetch(&asked).await),
            Turn::AssetsThenWorker => match assets.answer(&asked).await {
                Answer::Response(response) => Answerer::Files(response),
                Answer::NotFound => Answerer::Worker(worker),
            },
        }
    }
}

/// The sites of a project by name, for service bindings. They are put in once all are made, since each may call each.
#[derive(Clone, Default)]
pub struct Services(Arc<RwLock<HashMap<String, Site>>>);

impl Services {
    /// Lets service bindings reach `sites`, and no others from now on.
    pub fn set<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) {
        let sites = sites.into_iter().map(|site| (site.name().to_owned(), site.clone())).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sites;
    }

    /// Forgets all sites. Without it a project would keep itself alive: its workers hold this, and this holds them.
    pub fn clear(&self) {
        self.set([]);
    }

    pub(crate) fn find(&self, name: &str) -> Option<Site> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
