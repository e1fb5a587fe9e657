//! Weights from a model hub, over its public file interface.
//!
//! A file is `ENDPOINT/OWNER/REPOSITORY/resolve/REVISION/FILE`. A `HEAD` request tells its commit, size and, for large
//! files, its sha256 (`x-linked-etag`); the body comes by `GET`, from where an earlier attempt stopped (`Range`), with
//! redirects to wherever the hub keeps it. The token goes to the endpoint only, never to where it redirects. Servers
//! are not trusted: sizes bound what is written, sums decide what is kept, headers are bounded by the client. Large files
//! come over several connections ([`transfer`]).

mod listing;
mod transfer;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::package::matches;
use super::staging::Staging;
use super::{
    FORMAT, Installed, Manifest, ModelName, Origin, Progress, Store, StoreError, Waits, digest, foreign, import,
    inspect, plain_path,
};
use crate::backend::Pooling;
use crate::catalogue::{Artefact, Task};
use crate::encoder;
use crate::vision;
use listing::Listing;

const CONNECT: Duration = Duration::from_secs(30);
/// A connection that gives nothing for so long is dead; the next attempt resumes.
const IDLE: Duration = Duration::from_secs(60);
const ATTEMPTS: usize = 5;
const REDIRECTS: usize = 5;
/// What sentence-transformers puts beside an encoder that makes vectors; each has a few hundred bytes.
const BESIDE: [&str; 2] = ["modules.json", "1_Pooling/config.json"];
const BESIDE_BYTES: u64 = 1 << 20;
/// Some 200 bytes for each file of a repository.
const LISTING_BYTES: u64 = 8 << 20;

/// Where the hub is, and who asks.
#[derive(Clone)]
pub struct HubEndpoint {
    /// The base address, without a trailing slash.
    pub url: String,
    /// The user's token, for gated and private repositories.
    pub token: Option<String>,
    /// Connections that a large file is fetched over.
    pub connections: NonZeroUsize,
    /// Bytes that a connection fetches at a time; files that are no larger come over one.
    pub part: NonZeroU64,
}

impl std::fmt::Debug for HubEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, token, connections, part } = self;
        let mut shown = f.debug_struct("HubEndpoint");
        shown.field("url", url).field("token", &token.is_some()).field("connections", connections).field("part", part);
        shown.finish()
    }
}

impl HubEndpoint {
    /// The most connections; more are an attack on the server.
    pub const MAX_CONNECTIONS: NonZeroUsize = match NonZeroUsize::new(16) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    };
    /// As many as are used unless something else is said.
    pub const CONNECTIONS: NonZeroUsize = match NonZeroUsize::new(4) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    };
    /// As many bytes as a part has unless something else is said.
    pub const PART: NonZeroU64 = match NonZeroU64::new(64 << 20) {
        Some(count) => count,
        None => NonZeroU64::MIN,
    };

    /// The hub at `url`, asked by nobody in particular.
    pub fn new(url: &str) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { url, token: None, connections: Self::CONNECTIONS, part: Self::PART }
    }

    /// `HF_ENDPOINT`, with the public hub as the default, and `HF_TOKEN`.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let url = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self { token: variable("HF_TOKEN"), ..Self::new(&url) }
    }
}

/// `hf:OWNER/REPOSITORY[@REVISION][/FILE]`. Without a file: the safetensors, in one file, in shards or in the parts of a
/// model that draws, with what its loaders read beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    repository: String,
    revision: String,
    file: Option<String>,
}

/// Why a text is no [`HubReference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hub reference; one looks like hf:OWNER/REPOSITORY@REVISION/FILE.gguf")]
pub struct HubReferenceError(String);

impl FromStr for HubReference {
    type Err = HubReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || HubReferenceError(text.chars().take(200).collect());
        let rest = text.strip_prefix("hf:").ok_or_else(fault)?;
        let mut parts = rest.splitn(3, '/');
        let (owner, repository) = (parts.next().ok_or_else(fault)?, parts.next().ok_or_else(fault)?);
        let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        let file = parts.next();
        let plain = |part: &str| {
            !part.bytes().all(|b| b == b'.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
        };
        if ![owner, repository, revision].into_iter().chain(file.into_iter().flat_map(|f| f.split('/'))).all(plain) {
            return Err(fault());
        }
        Ok(Self {
            repository: format!("{owner}/{repository}"),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for HubReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf:{}@{}", self.repository, self.revision)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

impl HubReference {
    fn files(&self) -> Vec<&str> {
        match &self.file {
            Some(file) => vec![file],
            None => vec!["config.json", "tokenizer.json", "model.safetensors"],
        }
    }
}

/// What a `HEAD` request told.
struct Remote {
    size: Option<u64>,
    /// The sha256 of a large file; small files have only a git object id, which is no sum of their bytes alone.
    sha256: Option<String>,
    etag: String,
    commit: Option<String>,
}

impl Store {
    /// Fetches a hub repository's file or files and installs them under `name`, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Taken`], [`StoreError::Fetch`], [`StoreError::Mismatch`], [`StoreError::NotAModel`],
    /// [`StoreError::Io`].
    pub fn pull_hub(
        &self,
        name: &ModelName,
        reference: &HubReference,
        endpoint: &HubEndpoint,
        progress: &mut dyn Progress,
    ) -> Result<Installed, StoreError> {
        let staging = Staging::begin(self, name, progress)?;
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.to_string()));
        }
        let hub = Hub::new(endpoint, &reference.repository, progress.waits());
        let model = staging.model();
        let listing = hub.listing(reference)?;
        let commit = listing.as_ref().and_then(|listing| listing.sha.clone()).filter(|id| is_commit(id));
        let mut pull = Pull { hub: &hub, reference, commit, parts: staging.download(), model: model.clone() };
        let mut files = match &listing {
            Some(listing) => {
                let wanted = listing.wanted().map_err(|why| fault(&reference.to_string(), why))?;
                pull.files(&wanted, progress)?
            }
            None => pull.unlisted(progress)?,
        };
        let mut pooling = None;
        if foreign::recognize(&model)?.is_some() {
            let raw = staging.set_aside()?;
            if let Some(foreign) = foreign::recognize(&raw)? {
                pooling = import::convert(&foreign, &model, name, progress)?;
            }
            files = import::sums(&model, &inspect(&model)?.files, name, progress)?;
        }
        let found = inspect(&model)?;
        pooling = pooling.or(found.pooling);
        if listing.is_none() && reference.file.is_none() && found.task == Task::TextEmbeddings {
            pooling = hub.pooling(&pull.base(), &staging.download())?;
        }
        let origin = HubReference { revision: pull.revision().to_owned(), ..reference.clone() };
        staging.commit(&Manifest {
            format: FORMAT,
            name: name.to_string(),
            task: found.task,
            origin: Origin::Hub(origin.to_string()),
            licence: None,
            context: None,
            dimensions: found.dimensions,
            pooling,
            files,
        })?;
        self.find(name)?.ok_or_else(|| StoreError::NotInstalled(name.to_string()))
    }
}

/// A repository's files on their way.
struct Pull<'h> {
    hub: &'h Hub,
    reference: &'h HubReference,
    /// Every file comes from the commit that the first one came from.
    commit: Option<String>,
    parts: PathBuf,
    model: PathBuf,
}

impl Pull<'_> {
    fn revision(&self) -> &str {
        self.commit.as_deref().unwrap_or(&self.reference.revision)
    }

    fn base(&self) -> String {
        format!("{}/{}/resolve/{}", self.hub.endpoint.url, self.reference.repository, self.revision())
    }

    /// Fetches `paths`: one step over all of them, then one that sums them.
    fn files(&mut self, paths: &[String], progress: &mut dyn Progress) -> Result<Vec<Artefact>, StoreError> {
        let mut remotes = Vec::with_capacity(paths.len());
        for path in paths {
            let url = format!("{}/{path}", self.base());
            let remote = self.hub.head(&url)?;
            self.commit = self.commit.take().or_else(|| remote.commit.clone());
            let file = match &self.reference.file {
                Some(_) => path.rsplit('/').next().unwrap_or(path),
                None => path,
            };
            if !plain_path(file) {
                return Err(fault(&url, "its last part is no file name"));
            }
            // The etag in the name keeps parts of different contents apart.
            let part = self.parts.join(format!("{}.{}.part", file.replace('/', "-"), remote.etag));
            remotes.push((url, remote, file.to_owned(), part));
        }
        let total = remotes.iter().try_fold(0_u64, |sum, (_, remote, ..)| sum.checked_add(remote.size?));
        let what = match remotes.as_slice() {
            [(.., file, _)] => file.clone(),
            _ => format!("{} files of {}", remotes.len(), self.reference.repository),
        };
        progress.start(&format!("downloading {what}"), total);
        let fetched = remotes.iter().try_for_each(|(url, remote, _, part)| self.hub.bring(url, remote, part, progress));
        progress.finish();
        fetched?;
        progress.start(&format!("verifying {what}"), total);
        let verified = remotes.iter().map(|(_, remote, file, part)| verify(remote, file, part, &self.model, progress));
        let verified = verified.collect();
        progress.finish();
        verified
    }

    /// The same of a server that lists nothing: the usual files, of which `config.json` may tell others.
    fn unlisted(&mut self, progress: &mut dyn Progress) -> Result<Vec<Artefact>, StoreError> {
        let usual: Vec<String> = self.reference.files().into_iter().map(str::to_owned).collect();
        if self.reference.file.is_some() {
            return self.files(&usual, progress);
        }
        let mut files = self.files(&usual[..1], progress)?;
        let known = vision::files(&self.model).map(|files| files.into_iter().map(str::to_owned).collect());
        let mut rest: Vec<String> = known.unwrap_or(usual);
        rest.retain(|path| files.iter().all(|file| file.file != *path));
        files.extend(self.files(&rest, progress)?);
        Ok(files)
    }
}

/// Checks what came, and moves it to the model's folder.
fn verify(
    remote: &Remote,
    file: &str,
    part: &Path,
    model: &Path,
    progress: &mut dyn Progress,
) -> Result<Artefact, StoreError> {
    let summed = digest::file(part, &mut |bytes| progress.advance(bytes));
    let (sha256, bytes) = summed.map_err(StoreError::io("cannot read", part))?;
    if let Some(expected) = &remote.sha256
        && let Err(error) = matches(file, expected, sha256.clone())
    {
        // Resuming from wrong bytes would fail for ever.
        transfer::forget(part);
        return Err(error);
    }
    let to = model.join(file);
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(StoreError::io("cannot create", folder))?;
    }
    fs::rename(part, &to).map_err(StoreError::io("cannot move", part))?;
    Ok(Artefact { file: file.to_owned(), sha256, bytes })
}

struct Hub {
    agent: Agent,
    endpoint: HubEndpoint,
    /// Whose files are asked for.
    repository: String,
    /// Told of its waits.
    waits: Waits,
}

impl Hub {
    fn new(endpoint: &HubEndpoint, repository: &str, waits: Waits) -> Self {
        let mut config = Agent::config_builder();
        // A proxy's loopback is another machine's.
        if ["http://127.", "http://localhost", "http://[::1]"].iter().any(|start| endpoint.url.starts_with(start)) {
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(IDLE))
            .timeout_per_read(Some(IDLE))
            .user_agent(concat!("host/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint: endpoint.clone(), repository: repository.to_owned(), waits }
    }

    /// What the hub tells of the repository's files, where the reference names none. None too where the server lists
    /// nothing, as some mirrors do: the usual files are asked for then.
    fn listing(&self, reference: &HubReference) -> Result<Option<Listing>, StoreError> {
        if reference.file.is_some() {
            return Ok(None);
        }
        let HubReference { repository, revision, .. } = reference;
        let url = format!("{}/api/models/{repository}/revision/{revision}", self.endpoint.url);
        let response = self.patiently(&url, || self.authorized(self.agent.get(&url), &url).call())?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            _ => return Err(self.refused(&url, &response)),
        }
        let body = response.into_body().into_with_config().limit(LISTING_BYTES).read_to_vec();
        let body = body.map_err(|error| fault(&url, error))?;
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| fault(&url, format!("its answer is no listing: {error}")))
    }

    /// Follows redirects within the hub (renamed repositories), stops at those that lead to the bytes.
    fn head(&self, url: &str) -> Result<Remote, StoreError> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let send = || self.authorized(self.agent.head(&url), &url).config().max_redirects(0).build().call();
            let response = self.patiently(&url, send)?;
            let status = response.status();
            let headers = response.headers();
            if status.is_redirection() {
                match text(headers, "location") {
                    Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                        url = format!("{}{path}", self.endpoint.url);
                        continue;
                    }
                    _ => {}
                }
            } else if !status.is_success() {
                return Err(self.refused(&url, &response));
            }
            return remote(headers, status.is_success())
                .ok_or_else(|| fault(&url, "it tells neither an etag nor a linked etag"));
        }
        Err(fault(&url, "it redirects in circles"))
    }

    /// How the repository asks for one vector of token states, where it does. Nothing of it is kept but the answer.
    fn pooling(&self, base: &str, parts: &Path) -> Result<Option<Pooling>, StoreError> {
        let folder = parts.join("beside");
        for file in BESIDE {
            let url = format!("{base}/{file}");
            let response = self.patiently(&url, || self.authorized(self.agent.get(&url), &url).call())?;
            match response.status().as_u16() {
                200 => {}
                404 => continue,
                _ => return Err(self.refused(&url, &response)),
            }
            let body = response.into_body().into_with_config().limit(BESIDE_BYTES).read_to_vec();
            let (body, path) = (body.map_err(|error| fault(&url, error))?, folder.join(file));
            let within = path.parent().unwrap_or(&folder);
            fs::create_dir_all(within).map_err(StoreError::io("cannot create", within))?;
            fs::write(&path, body).map_err(StoreError::io("cannot write", &path))?;
        }
        encoder::of_checkpoint(&folder).map_err(|why| fault(base, why))
    }

    /// What the hub's refusal means and what to do about it. A gated repository is opened on its page, by the user whose
    /// token is sent.
    fn refused(&self, url: &str, response: &Response<Body>) -> StoreError {
        let page = format!("{}/{}", self.endpoint.url, self.repository);
        let gated = text(response.headers(), "x-error-code") == Some("GatedRepo");
        let hint = match (response.status().as_u16(), &self.endpoint.token) {
            (401 | 403, None) => {
                let terms = if gated { "is gated" } else { "may be gated or private" };
                format!("; the repository {terms}: accept its terms at {page} and set HF_TOKEN to a token of yours")
            }
            (401, Some(_)) => "; the token in HF_TOKEN is not accepted; make a new one, or unset it".to_owned(),
            (403, Some(_)) => format!("; the owner of the token in HF_TOKEN must accept the terms at {page} first"),
            (404, _) => "; check the repository, the revision and the file's name".to_owned(),
            (429, None) => "; try again later, or set HF_TOKEN".to_owned(),
            (429 | 503, _) => "; try again later".to_owned(),
            _ => String::new(),
        };
        fault(url, format_args!("the hub answered {}{hint}", response.status()))
    }

    fn authorized<T>(&self, request: ureq::RequestBuilder<T>, url: &str) -> ureq::RequestBuilder<T> {
        match &self.endpoint.token {
            Some(token) if url.starts_with(&self.endpoint.url) => {
                request.header("authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    /// Fetches what is missing of a file, over several connections where it is large.
    fn bring(&self, url: &str, remote: &Remote, part: &Path, progress: &mut dyn Progress) -> Result<(), StoreError> {
        let large = remote.size.filter(|size| *size > self.endpoint.part.get() && self.endpoint.connections.get() > 1);
        let Some(size) = large else {
            transfer::forget_gaps(part);
            return self.resume(url, remote, part, progress);
        };
        for _ in 0..2 {
            match transfer::fetch(self, url, size, part, progress) {
                Ok(true) => return Ok(()),
                Ok(false) => return self.resume(url, remote, part, progress),
                Err(transfer::Failed::Error(error) | transfer::Failed::Lost(error)) => return Err(error),
                Err(transfer::Failed::Changed) => transfer::forget(part),
            }
        }
        Err(fault(url, "it changes while it is fetched; try again later"))
    }

    fn resume(&self, url: &str, remote: &Remote, part: &Path, progress: &mut dyn Progress) -> Result<(), StoreError> {
        let mut options = File::options();
        let opened = options.create(true).truncate(false).write(true).open(part);
        let mut file = opened.map_err(StoreError::io("cannot create", part))?;
        let mut have = file.seek(SeekFrom::End(0)).map_err(StoreError::io("cannot read", part))?;
        if remote.size.is_some_and(|size| have > size) {
            have = restart(&mut file).map_err(StoreError::io("cannot write", part))?;
        }
        progress.advance(have);
        let mut last = fault(url, "it never sent the whole file");
        for _ in 0..ATTEMPTS {
            if remote.size == Some(have) {
                return Ok(());
            }
            let response = self.patiently(url, || {
                let request = self.authorized(self.agent.get(url), url);
                if have > 0 { request.header("range", format!("bytes={have}-")).call() } else { request.call() }
            })?;
            match response.status().as_u16() {
                206 if starts_at(response.headers(), have) => {}
                200 => have = restart(&mut file).map_err(StoreError::io("cannot write", part))?,
                416 => {
                    have = restart(&mut file).map_err(StoreError::io("cannot write", part))?;
                    continue;
                }
                _ => return Err(self.refused(url, &response)),
            }
            let before = have;
            match receive(response, remote.size, &mut have, &mut file, progress) {
                Ok(()) if remote.size.is_none() => return Ok(()),
                Ok(()) => {}
                Err(Received::Written(error)) => return Err(StoreError::io("cannot write", part)(error)),
                Err(Received::Lost(error)) => last = fault(url, error),
            }
            if have == before {
                break;
            }
        }
        if remote.size == Some(have) { Ok(()) } else { Err(last) }
    }
}

/// Which side of a copy failed.
enum Received {
    Lost(io::Error),
    Written(io::Error),
}

fn receive(
    response: Response<Body>,
    size: Option<u64>,
    have: &mut u64,
    file: &mut File,
    progress: &mut dyn Progress,
) -> Result<(), Received> {
    let bound = size.map_or(u64::MAX, |size| size.saturating_sub(*have));
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader().take(bound);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(Received::Written)?;
                *have += count as u64;
                progress.advance(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Received::Lost(error)),
        }
    }
}

fn restart(file: &mut File) -> io::Result<u64> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))
}

/// A redirect's own length and etag are not the file's; only the linked ones are.
fn remote(headers: &HeaderMap, direct: bool) -> Option<Remote> {
    let unquoted = |name| text(headers, name).map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
    let etag = unquoted("x-linked-etag").or_else(|| unquoted("etag").filter(|_| direct))?;
    if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    let number = |name| text(headers, name).and_then(|size| size.parse().ok());
    let sha256 = (etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())).then(|| etag.to_ascii_lowercase());
    let commit = text(headers, "x-repo-commit").filter(|id| is_commit(id));
    Some(Remote {
        size: number("x-linked-size").or_else(|| number("content-length").filter(|_| direct)),
        sha256,
        etag,
        commit: commit.map(str::to_owned),
    })
}

fn is_commit(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn starts_at(headers: &HeaderMap, have: u64) -> bool {
    text(headers, "content-range").is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn fault(url: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Fetch { what: url.to_owned(), why: why.to_string() }
}
