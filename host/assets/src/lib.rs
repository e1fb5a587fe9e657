//! A worker's static files, served as Cloudflare's Workers Static Assets serves them.
//!
//! The settings are `[assets]` of a binding file ([`host_config::Assets`]); the files are those of one directory, read
//! as they are at the time of a request, so that a rebuild shows without a restart. Which path finds which file, which
//! of a file's paths is its own, what `_headers` and `_redirects` mean and in which order all of it is tried follow
//! Cloudflare's asset worker, down to its corners. What differs is said here:
//!
//! - A file is looked for in the directory at each request, not in a list made at deployment. Names that start with a
//!   dot (but for `/.well-known`), `node_modules`, `/_worker.js`, `/_headers`, `/_redirects` and what `.assetsignore`
//!   names are not there, nor is anything that a symbolic link reaches outside of the directory.
//! - A single `Range` is answered here; on Cloudflare, the network in front of the asset worker does it.
//! - The number and the size of files are not bounded. The `ETag` of a file over [`HASHED_BYTES`] is made from its size
//!   and time instead of its content, so that no request waits for gigabytes to be hashed.
//!
//! # Calling it
//!
//! [`Assets::open`] once per worker; an [`Assets`] is cheap to clone. For each request of a worker that has some:
//!
//! 1. [`Assets::turn`] says who is asked first. For [`Turn::Worker`], the worker answers and that is all.
//! 2. For [`Turn::AssetsThenWorker`], [`Assets::answer`]; on [`Answer::NotFound`] the worker answers.
//! 3. For [`Turn::Assets`], and for every request where there is no worker, [`Assets::fetch`], which always answers.
//!
//! The assets binding (`env.ASSETS.fetch`) is [`Assets::fetch`] too. The request's body is never looked at.
//!
//! ```no_run
//! # async fn serve(assets: &host_assets::Assets, parts: &http::request::Parts) -> Option<http::Response<host_assets::Body>> {
//! use host_assets::{Answer, Asked, Turn};
//!
//! let asked = Asked::of(parts);
//! match assets.turn(asked.path) {
//!     Turn::Worker => None,
//!     Turn::Assets => Some(assets.fetch(&asked).await),
//!     Turn::AssetsThenWorker => match assets.answer(&asked).await {
//!         Answer::Response(response) => Some(response),
//!         Answer::NotFound => None,
//!     },
//! }
//! # }
//! ```
//!
//! [`Body`] is an `http_body::Body<Data = Bytes, Error = std::io::Error>` whose length is known. It reads a piece of
//! [`PIECE_BYTES`] at a time, each when it is polled for, on Tokio's blocking threads; it must be polled on a Tokio
//! runtime, and no file is held in memory as a whole.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body;
mod etag;
mod html;
mod paths;
mod range;
mod respond;
mod rules;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;

use host_config::CompatibilityDate;
pub use host_config::Turn;
use http::{HeaderMap, Method, Response, StatusCode};

pub use body::{Body, PIECE_BYTES};
pub use etag::HASHED_BYTES;
pub use rules::Warning;

use respond::{Owned, Server};

/// The static files of one worker.
#[derive(Clone)]
pub struct Assets {
    server: Arc<Server>,
}

/// A directory of assets that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the directory of the assets, {directory}, cannot be opened: {source}", directory = directory.display())]
pub struct OpenError {
    directory: PathBuf,
    source: std::io::Error,
}

/// What of a request the files need to know.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host, with or without a port, for rules of `_headers` that name one.
    pub host: &'a str,
    /// The path as it was sent: percent-encoded, not normalised, without a query.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Asked<'a> {
    /// What a request asks for.
    pub fn of(parts: &'a http::request::Parts) -> Self {
        let header = || parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        Asked {
            method: &parts.method,
            host: parts.uri.authority().map(|authority| authority.as_str()).or_else(header).unwrap_or_default(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }
}

/// What the files in front of a worker say to a request.
#[derive(Debug)]
pub enum Answer {
    /// They answer it: with a file, a redirect, or why not.
    Response(Response<Body>),
    /// They have nothing for it: the worker answers.
    NotFound,
}

impl Assets {
    /// Opens the directory and reads its rules. Reads from the disk: not for an async thread that is in a hurry.
    ///
    /// # Errors
    /// When the directory is not there or not readable.
    pub fn open(settings: &host_config::Assets) -> Result<Self, OpenError> {
        let server =
            Server::open(settings).map_err(|source| OpenError { directory: settings.directory.clone(), source })?;
        Ok(Assets { server: Arc::new(server) })
    }

    /// Whether a path that a browser navigates to (`Sec-Fetch-Mode: navigate`) and that no file has is answered by
    /// `not_found_handling` even in front of a worker. On by default; see [`navigation_prefers_assets`].
    pub fn with_navigation(mut self, prefers_assets: bool) -> Self {
        let mut server = (*self.server).clone();
        server.navigation_prefers_assets = prefers_assets;
        self.server = Arc::new(server);
        self
    }

    /// Who answers a request for this path, as it was sent: the setting `run_worker_first`.
    pub fn turn(&self, path: &str) -> Turn {
        self.server.turn(path)
    }

    /// Whether the worker answers before the files are looked at.
    pub fn worker_first(&self, path: &str) -> bool {
        self.turn(path) == Turn::Worker
    }

    /// Answers in front of a worker. `not_found_handling` is left out, but for navigation, so that the worker has what no
    /// file has. As on Cloudflare, a file's path is the file's whatever the method: a method other than `GET` and `HEAD`
    /// is refused with 405.
    pub async fn answer(&self, asked: &Asked<'_>) -> Answer {
        let navigates = asked.headers.get("sec-fetch-mode").is_some_and(|mode| mode.as_bytes() == b"navigate");
        let fallback = navigates && self.server.navigation_prefers_assets;
        match self.respond(asked, fallback).await {
            Some(response) => Answer::Response(response),
            None => Answer::NotFound,
        }
    }

    /// Answers in any case, with an empty 404 where there is nothing: for a worker's assets binding, and where there is
    /// no worker.
    pub async fn fetch(&self, asked: &Asked<'_>) -> Response<Body> {
        match self.respond(asked, true).await {
            Some(response) => response,
            None => self.server.nothing(&Owned::new(asked, true)),
        }
    }

    /// What is wrong with `_headers`, `_redirects` and `.assetsignore`, as they were last read. The same is logged
    /// whenever one of them is read.
    pub fn warnings(&self) -> Vec<Warning> {
        self.server.warnings()
    }

    async fn respond(&self, asked: &Asked<'_>, fallback: bool) -> Option<Response<Body>> {
        let (server, owned) = (self.server.clone(), Owned::new(asked, fallback));
        let done = tokio::task::spawn_blocking(move || server.respond(&owned)).await;
        done.unwrap_or_else(|_| Some(respond::empty(StatusCode::INTERNAL_SERVER_ERROR)))
    }
}

/// Whether Cloudflare would prefer files for navigation, for [`Assets::with_navigation`]: since the compatibility date
/// 2025-04-01, unless a compatibility flag says otherwise. A worker without a date is taken as new.
pub fn navigation_prefers_assets(date: Option<CompatibilityDate>, flags: &[String]) -> bool {
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if has("assets_navigation_prefers_asset_serving") {
        return true;
    }
    let since = "2025-04-01".parse::<CompatibilityDate>().ok();
    !has("assets_navigation_has_no_effect") && date.is_none_or(|date| Some(date) >= since)
}
