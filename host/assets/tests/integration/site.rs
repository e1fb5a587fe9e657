//! A directory of files that is served.

use std::path::Path;

use host_assets::{Answer, Asked, Assets, Body};
use host_config::{HtmlHandling, NotFoundHandling, RunWorkerFirst};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::BodyExt as _;

/// Settings as they are by default, for a directory.
pub(crate) fn settings(directory: &Path) -> host_config::Assets {
    host_config::Assets {
        directory: directory.to_owned(),
        binding: None,
        base_path: None,
        html_handling: HtmlHandling::default(),
        not_found_handling: NotFoundHandling::default(),
        run_worker_first: RunWorkerFirst::default(),
    }
}

pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) assets: Assets,
}

/// A request to a site.
pub(crate) struct Get<'a> {
    pub(crate) method: Method,
    pub(crate) host: &'a str,
    /// With its query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

impl<'a> Get<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        Get { method: Method::GET, host: "example.com", path, headers: &[] }
    }
}

impl Site {
    /// Files of these names, each of which says its own name, under settings that a test may change.
    pub(crate) fn new(files: &[&str], change: impl FnOnce(&mut host_config::Assets)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            write(directory.path(), file, &format!("this is {file}"));
        }
        let mut settings = settings(directory.path());
        change(&mut settings);
        let assets = Assets::open(&settings).unwrap();
        Site { directory, assets }
    }

    pub(crate) fn write(&self, file: &str, content: &str) {
        write(self.directory.path(), file, content);
    }

    /// What the files say where there is no worker.
    pub(crate) async fn fetch(&self, get: Get<'_>) -> Response<Body> {
        let headers = headers(&get);
        self.assets.fetch(&asked(&get, &headers)).await
    }

    /// What the files say in front of a worker.
    pub(crate) async fn answer(&self, get: Get<'_>) -> Option<Response<Body>> {
        let headers = headers(&get);
        match self.assets.answer(&asked(&get, &headers)).await {
            Answer::Response(response) => Some(response),
            Answer::NotFound => None,
        }
    }

    /// A short form of what is answered: `200 CONTENT`, `307 LOCATION`, `404`, or `worker`.
    pub(crate) async fn says(&self, get: Get<'_>) -> String {
        match self.answer(get).await {
            Some(response) => short(response).await,
            None => "worker".into(),
        }
    }

    pub(crate) async fn fetches(&self, get: Get<'_>) -> String {
        short(self.fetch(get).await).await
    }
}

fn headers(get: &Get<'_>) -> HeaderMap {
    let pairs = get
        .headers
        .iter()
        .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap()));
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    headers
}

fn asked<'a>(get: &'a Get<'_>, headers: &'a HeaderMap) -> Asked<'a> {
    let (path, query) = get.path.split_once('?').map_or((get.path, None), |(path, query)| (path, Some(query)));
    Asked { method: &get.method, host: get.host, path, query, headers }
}

pub(crate) async fn short(response: Response<Body>) -> String {
    let status = response.status().as_u16();
    if let Some(location) = response.headers().get("location") {
        return format!("{status} {}", location.to_str().unwrap());
    }
    let content = content(response).await;
    if content.is_empty() { status.to_string() } else { format!("{status} {}", String::from_utf8_lossy(&content)) }
}

pub(crate) async fn content(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

pub(crate) fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn write(directory: &Path, file: &str, content: &str) {
    let path = directory.join(file.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}
