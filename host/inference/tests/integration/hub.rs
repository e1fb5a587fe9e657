//! Pulls from a model hub, against a server on this machine that misbehaves on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use host_inference::backend::Pooling;
use host_inference::store::{HubEndpoint, HubReference, ModelName, NoProgress, Origin, Progress, Store, StoreError};
use sha2::{Digest, Sha256};

use crate::support;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Hub {
    /// By path below `/resolve/REVISION/`.
    files: HashMap<String, Vec<u8>>,
    /// How many bodies to break off in the middle.
    cuts: usize,
    /// The sum to claim instead of the true one.
    claim: Option<String>,
    /// Only requests with this token are answered.
    token: Option<String>,
    /// Whether it says that the repository is gated.
    gated: bool,
    /// Whether bodies come whole whatever was asked for.
    no_ranges: bool,
    /// The length to claim instead of the true one.
    length: Option<usize>,
    /// The whole length to claim beside a range.
    whole: Option<usize>,
    /// How many answers to give that ask for patience, and how much.
    busy: (usize, &'static str),
    /// After how many bodies the content is another one.
    change: Option<usize>,
    bodies: usize,
    seen: Vec<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

/// Serves until the test's process ends.
fn serve(hub: Hub) -> (HubEndpoint, Arc<Mutex<Hub>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let token = hub.token.clone();
    let hub = Arc::new(Mutex::new(hub));
    let shared = Arc::clone(&hub);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hub = Arc::clone(&shared);
            std::thread::spawn(move || answer(stream, &hub));
        }
    });
    (HubEndpoint { token, ..HubEndpoint::new(&url) }, hub)
}

fn answer(mut stream: TcpStream, hub: &Mutex<Hub>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let seen = Seen {
        method: method.clone(),
        path: path.clone(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };
    let mut hub = hub.lock().unwrap();
    hub.seen.push(seen);
    if hub.busy.0 > 0 {
        hub.busy.0 -= 1;
        let wait = hub.busy.1;
        let head =
            format!("HTTP/1.1 429 Slow\r\nretry-after: {wait}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return stream.write_all(head.as_bytes()).ok();
    }
    let expected = hub.token.as_ref().map(|token| format!("Bearer {token}"));
    if path.starts_with("/owner/") && expected.is_some() && headers.get("authorization") != expected.as_ref() {
        let known = headers.contains_key("authorization");
        let status = if known { "403 Forbidden" } else { "401 Unauthorized" };
        let code = if hub.gated { "x-error-code: GatedRepo\r\n" } else { "" };
        let head = format!("HTTP/1.1 {status}\r\n{code}content-length: 0\r\nconnection: close\r\n\r\n");
        return stream.write_all(head.as_bytes()).ok();
    }
    let file = path.rsplit("/main/").next()?.rsplit(&format!("/{COMMIT}/")).next()?.rsplit("/cdn/").next()?.to_owned();
    let Some(body) = hub.files.get(&file).cloned() else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    };
    let etag = hub.claim.clone().unwrap_or_else(|| sum(&body));
    if path.starts_with("/owner/") {
        let port = stream.local_addr().ok()?.port();
        let head = format!(
            "HTTP/1.1 302 Found\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\nx-repo-commit: {COMMIT}\r\n\
             location: http://localhost:{port}/cdn/{file}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            hub.length.unwrap_or(body.len())
        );
        return stream.write_all(head.as_bytes()).ok();
    }
    hub.bodies += 1;
    let changed = hub.change.is_some_and(|after| hub.bodies > after);
    let range = headers.get("range").filter(|_| !hub.no_ranges);
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (start, end): (usize, usize) = match range {
        Some((start, end)) => (start.parse().ok()?, end.parse().map_or(body.len(), |end: usize| end + 1)),
        None => (0, body.len()),
    };
    if start >= body.len() {
        return stream.write_all(b"HTTP/1.1 416 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    }
    let end = end.min(body.len());
    let status = match range {
        Some(_) => {
            let whole = hub.whole.unwrap_or(body.len());
            format!("206 Partial Content\r\ncontent-range: bytes {start}-{}/{whole}", end - 1)
        }
        None => "200 OK".to_owned(),
    };
    let rest = &body[start..end];
    let name = if changed { "new" } else { "old" };
    let length = rest.len();
    let head =
        format!("HTTP/1.1 {status}\r\netag: \"{name}\"\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let sent = if hub.cuts > 0 { rest.len() / 2 } else { rest.len() };
    hub.cuts = hub.cuts.saturating_sub(1);
    drop(hub);
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&rest[..sent]).ok()
}

fn weights() -> Vec<u8> {
    [b"GGUF".to_vec(), (0..100_000_u32).flat_map(u32::to_le_bytes).collect()].concat()
}

fn hub_with_weights() -> Hub {
    Hub { files: HashMap::from([("sub/model.gguf".to_owned(), weights())]), ..Hub::default() }
}

fn reference() -> HubReference {
    "hf:owner/repository/sub/model.gguf".parse().unwrap()
}

fn name() -> ModelName {
    "mine".parse().unwrap()
}

struct Total(u64);

impl Progress for Total {
    fn start(&mut self, _: &str, total: Option<u64>) {
        assert_eq!(total, Some(weights().len() as u64));
        self.0 = 0;
    }
    fn advance(&mut self, bytes: u64) {
        self.0 += bytes;
    }
    fn finish(&mut self) {
        assert_eq!(self.0, weights().len() as u64);
    }
}

#[test]
fn a_file_is_fetched_checked_and_installed() {
    let (endpoint, hub) = serve(hub_with_weights());
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let installed = store.pull_hub(&name(), &reference(), &endpoint, &mut Total(0)).unwrap();
    assert_eq!(installed.manifest.origin, Origin::Hub(format!("hf:owner/repository@{COMMIT}/sub/model.gguf")));
    assert_eq!(installed.manifest.files[0].sha256, sum(&weights()));
    store.verify(&name(), &mut NoProgress).unwrap();
    let again = store.pull_hub(&name(), &reference(), &endpoint, &mut NoProgress);
    assert!(matches!(again, Err(StoreError::Taken(_))));
    let seen = hub.lock().unwrap().seen.clone();
    assert_eq!(seen.iter().filter(|seen| seen.method == "HEAD").count(), 1, "{seen:?}");
}

#[test]
fn a_model_of_pictures_comes_with_the_files_it_needs() {
    for (model, texts) in [("resnet-basic", false), ("siglip", true)] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision").join(model);
        let read =
            |entry: std::fs::DirEntry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
        let files = std::fs::read_dir(fixture).unwrap().map(|entry| read(entry.unwrap())).collect();
        let (endpoint, hub) = serve(Hub { files, ..Hub::default() });
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path());
        let reference = "hf:owner/repository".parse().unwrap();
        let installed = store.pull_hub(&name(), &reference, &endpoint, &mut NoProgress).unwrap();
        let has = |file: &str| installed.manifest.files.iter().any(|artefact| artefact.file == file);
        assert!(has("config.json") && has("preprocessor_config.json") && has("model.safetensors"));
        assert_eq!((has("tokenizer.json"), has("tokenizer_config.json")), (texts, texts));
        let asked = hub.lock().unwrap().seen.iter().any(|seen| seen.path.ends_with("tokenizer.json"));
        assert_eq!(asked, texts);
    }
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let (endpoint, hub) = serve(Hub { cuts: 2, ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    store.pull_hub(&name(), &reference(), &endpoint, &mut Total(0)).unwrap();
    store.verify(&name(), &mut NoProgress).unwrap();
    let seen = hub.lock().unwrap().seen.clone();
    let ranges: Vec<_> =
        seen.iter().filter(|seen| seen.path.starts_with("/cdn/")).map(|seen| seen.range.clone()).collect();
    let size = weights().len();
    let halves =
        [None, Some(format!("bytes={}-", size / 2)), Some(format!("bytes={}-", size / 2 + (size - size / 2) / 2))];
    assert_eq!(ranges, halves);
}

#[test]
fn a_later_attempt_resumes_what_an_earlier_one_left() {
    let (endpoint, hub) = serve(Hub { cuts: 100, ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let error = store.pull_hub(&name(), &reference(), &endpoint, &mut NoProgress).unwrap_err();
    assert!(matches!(error, StoreError::Fetch { .. }), "{error}");
    assert!(store.list().unwrap().is_empty());
    let before = {
        let mut hub = hub.lock().unwrap();
        hub.cuts = 0;
        std::mem::take(&mut hub.seen).len()
    };
    assert!(before > 2);
    store.pull_hub(&name(), &reference(), &endpoint, &mut Total(0)).unwrap();
    store.verify(&name(), &mut NoProgress).unwrap();
    let seen = hub.lock().unwrap().seen.clone();
    assert!(seen.iter().any(|seen| seen.range.is_some()), "{seen:?}");
}

#[test]
fn other_bytes_than_promised_are_refused_and_not_kept() {
    let (endpoint, hub) = serve(Hub { claim: Some("ab".repeat(32)), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    for _ in 0..2 {
        let error = store.pull_hub(&name(), &reference(), &endpoint, &mut NoProgress).unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
        assert!(store.list().unwrap().is_empty());
    }
    hub.lock().unwrap().claim = None;
    store.pull_hub(&name(), &reference(), &endpoint, &mut NoProgress).unwrap();
}

#[test]
fn the_token_goes_to_the_hub_and_no_further() {
    let (endpoint, hub) = serve(Hub { token: Some("secret".to_owned()), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let anonymous = HubEndpoint { token: None, ..endpoint.clone() };
    let error = store.pull_hub(&name(), &reference(), &anonymous, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN"), "{error}");
    store.pull_hub(&name(), &reference(), &endpoint, &mut NoProgress).unwrap();
    let seen = hub.lock().unwrap().seen.clone();
    let elsewhere: Vec<_> = seen.iter().filter(|seen| seen.path.starts_with("/cdn/")).collect();
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
    assert!(!format!("{endpoint:?}").contains("secret"));
}

#[test]
fn a_whole_encoder_is_three_files_of_one_commit() {
    let model = tempfile::tempdir().unwrap();
    support::tiny_encoder(model.path(), 1);
    let names = ["config.json", "tokenizer.json", "model.safetensors"];
    let files = names.map(|name| (name.to_owned(), std::fs::read(model.path().join(name)).unwrap())).into();
    let (endpoint, hub) = serve(Hub { files, ..Hub::default() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let reference: HubReference = "hf:owner/repository".parse().unwrap();
    let installed = store.pull_hub(&name(), &reference, &endpoint, &mut NoProgress).unwrap();
    assert_eq!((installed.manifest.files.len(), installed.manifest.dimensions), (3, Some(support::HIDDEN)));
    let seen = hub.lock().unwrap().seen.clone();
    let heads: Vec<_> = seen.iter().filter(|seen| seen.method == "HEAD").map(|seen| seen.path.as_str()).collect();
    assert!(heads[0].contains("/resolve/main/") && heads[1..].iter().all(|path| path.contains(COMMIT)), "{heads:?}");
}

#[test]
fn a_missing_file_says_what_to_check() {
    let (endpoint, _) = serve(Hub::default());
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(folder.path()).pull_hub(&name(), &reference(), &endpoint, &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("404") && error.to_string().contains("check the repository"), "{error}");
}

#[test]
fn references_that_are_none() {
    for text in [
        "owner/repository",
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:o/r/../x",
        "hf:o/r@",
        "hf:o/r/a b",
        "hf:o/r/x?y",
        "hf:../r/x",
    ] {
        assert!(text.parse::<HubReference>().is_err(), "{text}");
    }
    let whole: HubReference = "hf:o/r@v1.0/a/b.gguf".parse().unwrap();
    assert_eq!(whole.to_string(), "hf:o/r@v1.0/a/b.gguf");
    assert_eq!("hf:o/r".parse::<HubReference>().unwrap().to_string(), "hf:o/r@main");
}

#[test]
fn an_encoder_keeps_the_pooling_that_its_repository_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_encoder(folder.path(), 1);
    let mut files: HashMap<String, Vec<u8>> = ["config.json", "tokenizer.json", "model.safetensors"]
        .map(|file| (file.to_owned(), std::fs::read(folder.path().join(file)).unwrap()))
        .into();
    let store = Store::open(folder.path().join("store"));
    let reference: HubReference = "hf:owner/repository".parse().unwrap();
    let mut pull = |name: &str, beside: &[(&str, &str)]| {
        files.extend(beside.iter().map(|(file, text)| ((*file).to_owned(), text.as_bytes().to_vec())));
        let (endpoint, _) = serve(Hub { files: files.clone(), ..Hub::default() });
        let pulled = store.pull_hub(&name.parse().unwrap(), &reference, &endpoint, &mut NoProgress);
        pulled.map(|installed| installed.manifest.pooling).map_err(|error| error.to_string())
    };
    assert_eq!(pull("plain", &[]), Ok(None));
    let cls = r#"{"pooling_mode_cls_token": true}"#;
    assert_eq!(pull("cls", &[("1_Pooling/config.json", cls)]), Ok(Some(Pooling::Cls)));
    let dense = r#"[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]"#;
    assert!(pull("dense", &[("modules.json", dense)]).unwrap_err().contains("Dense"));
}

/// What the hub's interface tells of a repository with `files`.
fn listed(files: &mut HashMap<String, Vec<u8>>, more: &[&str]) {
    let names = files.keys().map(String::as_str).chain(more.iter().copied());
    let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
    files.insert("/api/models/owner/repo/revision/main".to_owned(), listing.to_string().into_bytes());
}

/// Every file below `folder`, by its path there.
fn below(folder: &Path) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(below(&path).into_iter().map(|(inner, body)| (format!("{name}/{inner}"), body)));
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn a_model_of_parts_is_fetched_part_by_part() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/draw/model");
    let mut files = below(&root);
    listed(
        &mut files,
        &["unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors", "../evil/config.json"],
    );
    let (endpoint, hub) = serve(Hub { files, ..Hub::default() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let reference: HubReference = "hf:owner/repo".parse().unwrap();
    let installed = store.pull_hub(&"toy".parse().unwrap(), &reference, &endpoint, &mut NoProgress).unwrap();
    assert_eq!(installed.manifest.task, host_inference::Task::TextToImage);
    assert!(installed.manifest.files.iter().any(|file| file.file == "unet/config.json"));
    let seen = hub.lock().unwrap().seen.clone();
    assert!(seen.iter().all(|seen| !["bin", "checker", "evil", "README"].iter().any(|name| seen.path.contains(name))));
    store.verify(&"toy".parse().unwrap(), &mut NoProgress).unwrap();
}

#[test]
fn a_repository_without_weights_says_what_it_has() {
    let mut files = HashMap::from([("config.json".to_owned(), b"{}".to_vec())]);
    listed(&mut files, &["model.Q4_0.gguf"]);
    let (endpoint, _hub) = serve(Hub { files, ..Hub::default() });
    let folder = tempfile::tempdir().unwrap();
    let reference: HubReference = "hf:owner/repo".parse().unwrap();
    let pulled = Store::open(folder.path()).pull_hub(&"x".parse().unwrap(), &reference, &endpoint, &mut NoProgress);
    assert!(pulled.unwrap_err().to_string().contains("model.Q4_0.gguf"));
}

/// A hub whose large file comes in eight parts.
fn in_parts(hub: Hub) -> (HubEndpoint, Arc<Mutex<Hub>>) {
    let (endpoint, hub) = serve(hub);
    let part = std::num::NonZeroU64::new(weights().len() as u64 / 8 + 1).unwrap();
    (HubEndpoint { part, ..endpoint }, hub)
}

fn pulled(endpoint: &HubEndpoint, store: &Store, progress: &mut dyn Progress) -> Result<(), StoreError> {
    let installed = store.pull_hub(&name(), &reference(), endpoint, progress)?;
    assert_eq!(installed.manifest.files[0].sha256, sum(&weights()));
    store.verify(&name(), &mut NoProgress)
}

/// What was asked of the place where the bytes are.
fn ranges(hub: &Mutex<Hub>) -> Vec<Option<String>> {
    let seen = hub.lock().unwrap().seen.clone();
    seen.into_iter().filter(|seen| seen.path.starts_with("/cdn/")).map(|seen| seen.range).collect()
}

#[test]
fn a_large_file_comes_in_parts_that_cover_it_once() {
    let (endpoint, hub) = in_parts(hub_with_weights());
    let folder = tempfile::tempdir().unwrap();
    pulled(&endpoint, &Store::open(folder.path()), &mut Total(0)).unwrap();
    let mut asked: Vec<(usize, usize)> = ranges(&hub)
        .into_iter()
        .map(|range| {
            let range = range.unwrap();
            let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            (start.parse().unwrap(), end.parse().unwrap())
        })
        .collect();
    asked.sort_unstable();
    assert_eq!((asked.len(), asked[0].0, asked[7].1), (8, 0, weights().len() - 1));
    assert!(asked.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{asked:?}");
}

#[test]
fn a_server_without_ranges_gives_the_file_in_one_piece() {
    let (endpoint, hub) = in_parts(Hub { no_ranges: true, ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress).unwrap();
    assert_eq!(ranges(&hub).len(), 2, "one that was to be a part, and the whole");
}

#[test]
fn parts_are_resumed_each_where_it_broke() {
    let (endpoint, hub) = in_parts(Hub { cuts: 5, ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    pulled(&endpoint, &Store::open(folder.path()), &mut Total(0)).unwrap();
    assert_eq!(ranges(&hub).len(), 8 + 5);
}

#[test]
fn what_is_missing_of_each_part_is_noted_for_the_next_attempt() {
    let (endpoint, hub) = in_parts(hub_with_weights());
    let endpoint = HubEndpoint { connections: std::num::NonZeroUsize::new(2).unwrap(), ..endpoint };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    /// The server loses the file when a third of it has come.
    struct Stops(Arc<Mutex<Hub>>, u64);
    impl Progress for Stops {
        fn start(&mut self, _: &str, _: Option<u64>) {}
        fn advance(&mut self, bytes: u64) {
            self.1 += bytes;
            if self.1 > weights().len() as u64 / 3 {
                self.0.lock().unwrap().files.clear();
            }
        }
        fn finish(&mut self) {}
    }
    assert!(pulled(&endpoint, &store, &mut Stops(Arc::clone(&hub), 0)).is_err());
    let before = ranges(&hub).len();
    hub.lock().unwrap().files = hub_with_weights().files;
    pulled(&endpoint, &store, &mut Total(0)).unwrap();
    let after = ranges(&hub).len() - before;
    assert!((1..8).contains(&after), "{after} parts were asked for again");
    // What parts have left, one connection cannot go on with: it begins anew.
    store.remove(&name()).unwrap();
    assert!(pulled(&endpoint, &store, &mut Stops(Arc::clone(&hub), 0)).is_err());
    hub.lock().unwrap().files = hub_with_weights().files;
    let lonely = HubEndpoint { connections: std::num::NonZeroUsize::MIN, ..endpoint };
    pulled(&lonely, &store, &mut Total(0)).unwrap();
}

#[test]
fn content_that_changes_between_parts_is_begun_anew_once() {
    // After the third body the file is another one: the parts so far are worth nothing.
    let (endpoint, hub) = in_parts(Hub { change: Some(3), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress).unwrap();
    assert!(ranges(&hub).len() > 8);
}

#[test]
fn lengths_that_lie_are_faults() {
    let size = weights().len();
    for (length, whole) in [(size * 2, None), (size - 1000, Some(size)), (size, Some(size + 1))] {
        let (endpoint, _hub) = in_parts(Hub { length: Some(length), whole, ..hub_with_weights() });
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path());
        let failed = pulled(&endpoint, &store, &mut NoProgress).unwrap_err().to_string();
        assert!(failed.contains("bytes"), "{failed}");
        assert!(store.list().unwrap().is_empty());
    }
    // One stream, cut at the length that was claimed: the sum tells.
    let (endpoint, _hub) = serve(Hub { length: Some(size - 1000), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let failed = pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress);
    assert!(matches!(failed, Err(StoreError::Mismatch { .. })), "{failed:?}");
}

#[test]
fn a_busy_server_gets_the_time_that_it_asks_for() {
    let (endpoint, _hub) = in_parts(Hub { busy: (3, "0"), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress).unwrap();
    let (endpoint, _hub) = in_parts(Hub { busy: (1, "86400"), ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let failed = pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress).unwrap_err().to_string();
    assert!(failed.contains("86400 s"), "{failed}");
    let (endpoint, _hub) = in_parts(Hub { busy: (1000, "0"), ..hub_with_weights() });
    let failed = pulled(&endpoint, &Store::open(folder.path()), &mut NoProgress).unwrap_err().to_string();
    assert!(failed.contains("429") && failed.contains("HF_TOKEN"), "{failed}");
}

#[test]
fn a_gated_repository_says_which_page_to_open_and_which_variable_to_set() {
    let (endpoint, _hub) = serve(Hub { token: Some("secret".to_owned()), gated: true, ..hub_with_weights() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let page = format!("{}/owner/repository", endpoint.url);
    let refusal = |token: Option<&str>| {
        let endpoint = HubEndpoint { token: token.map(str::to_owned), ..endpoint.clone() };
        pulled(&endpoint, &store, &mut NoProgress).unwrap_err().to_string()
    };
    let anonymous = refusal(None);
    assert!(
        anonymous.contains("is gated") && anonymous.contains(&page) && anonymous.contains("HF_TOKEN"),
        "{anonymous}"
    );
    let other = refusal(Some("another"));
    assert!(other.contains(&page) && other.contains("accept the terms") && !other.contains("another"), "{other}");
    pulled(&endpoint, &store, &mut NoProgress).unwrap();
}

#[test]
fn an_encoder_in_onnx_is_converted_on_the_way() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx/int8");
    let mut files = below(&fixture);
    let graph = files.remove("model.onnx").unwrap();
    files.insert("onnx/model.onnx".to_owned(), graph);
    listed(&mut files, &["onnx/model_fp16.onnx", "pytorch_model.bin"]);
    let (endpoint, _hub) = serve(Hub { files, ..Hub::default() });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let reference: HubReference = "hf:owner/repo".parse().unwrap();
    let installed = store.pull_hub(&name(), &reference, &endpoint, &mut NoProgress).unwrap();
    let names: Vec<_> = installed.manifest.files.iter().map(|file| file.file.as_str()).collect();
    assert_eq!(names, ["config.json", "tokenizer.json", "model.safetensors"]);
    store.verify(&name(), &mut NoProgress).unwrap();
}
