//! Which path finds which file.

use host_config::{HtmlHandling, NotFoundHandling};
use http::Method;

use crate::site::{Get, Site, header};

const TREE: &[&str] = &["/index.html", "/404.html", "/page.html", "/dir/index.html", "/dir/deep/404.html", "/app.js"];

async fn table(html: HtmlHandling, not_found: NotFoundHandling, rows: &[(&str, &str)]) {
    let site = Site::new(TREE, |settings| {
        settings.html_handling = html;
        settings.not_found_handling = not_found;
    });
    for (path, expected) in rows {
        assert_eq!(site.fetches(Get::of(path)).await, *expected, "{html:?} {not_found:?} {path}");
    }
}

#[tokio::test]
async fn every_html_mode_has_its_own_paths() {
    let none = NotFoundHandling::None;
    let rows = [
        ("/", "200 this is /index.html"),
        ("/index.html", "307 /"),
        ("/page", "200 this is /page.html"),
        ("/page?x=1", "200 this is /page.html"),
        ("/page.html?x=1", "307 /page?x=1"),
        ("/page/?", "307 /page"),
        ("/dir", "307 /dir/"),
        ("/dir/", "200 this is /dir/index.html"),
        ("/dir/index", "307 /dir/"),
        ("/app.js", "200 this is /app.js"),
        ("/app.js/", "404"),
        ("/nothing", "404"),
    ];
    table(HtmlHandling::AutoTrailingSlash, none, &rows).await;
    let rows = [
        ("/", "200 this is /index.html"),
        ("/index.html", "307 /"),
        ("/page", "307 /page/"),
        ("/page/", "200 this is /page.html"),
        ("/page.html", "307 /page/"),
        ("/dir", "307 /dir/"),
        ("/dir/", "200 this is /dir/index.html"),
        ("/app.js", "200 this is /app.js"),
    ];
    table(HtmlHandling::ForceTrailingSlash, none, &rows).await;
    let rows = [
        ("/", "200 this is /index.html"),
        ("/index.html", "307 /"),
        ("/page", "200 this is /page.html"),
        ("/page/", "307 /page"),
        ("/dir", "200 this is /dir/index.html"),
        ("/dir/", "307 /dir"),
        ("/dir/index.html", "307 /dir"),
        ("/app.js", "200 this is /app.js"),
    ];
    table(HtmlHandling::DropTrailingSlash, none, &rows).await;
    let rows = [
        ("/", "404"),
        ("/index.html", "200 this is /index.html"),
        ("/page", "404"),
        ("/page.html", "200 this is /page.html"),
        ("/dir/", "404"),
        ("/dir/index.html", "200 this is /dir/index.html"),
    ];
    table(HtmlHandling::None, none, &rows).await;
}

#[tokio::test]
async fn every_not_found_mode_has_its_own_answer() {
    let auto = HtmlHandling::AutoTrailingSlash;
    table(auto, NotFoundHandling::None, &[("/x", "404"), ("/dir/deep/x", "404")]).await;
    let rows = [("/x", "200 this is /index.html"), ("/dir/x.png", "200 this is /index.html")];
    table(auto, NotFoundHandling::SinglePageApplication, &rows).await;
    let rows = [
        ("/x", "404 this is /404.html"),
        ("/dir/x", "404 this is /404.html"),
        ("/dir/deep/x", "404 this is /dir/deep/404.html"),
        ("/dir/deep/x/y/", "404 this is /dir/deep/404.html"),
        ("/404", "200 this is /404.html"),
    ];
    table(auto, NotFoundHandling::NotFoundPage, &rows).await;
}

#[tokio::test]
async fn a_worker_has_what_no_file_has() {
    for not_found in [NotFoundHandling::SinglePageApplication, NotFoundHandling::NotFoundPage] {
        let site = Site::new(TREE, |settings| settings.not_found_handling = not_found);
        assert_eq!(site.says(Get::of("/page")).await, "200 this is /page.html");
        assert_eq!(site.says(Get::of("/page.html")).await, "307 /page");
        assert_eq!(site.says(Get::of("/api")).await, "worker");
        let navigation = || Get { headers: &[("sec-fetch-mode", "navigate")], ..Get::of("/api") };
        assert_ne!(site.says(navigation()).await, "worker");
        let old = Site { assets: site.assets.clone().with_navigation(false), ..site };
        assert_eq!(old.says(navigation()).await, "worker");
        let post = |path| Get { method: Method::POST, ..Get::of(path) };
        assert_eq!(old.says(post("/api")).await, "worker");
        assert_eq!(old.says(post("/page")).await, "405");
        assert_eq!(old.says(post("/page.html")).await, "405");
    }
}

#[test]
fn navigation_follows_the_compatibility_date() {
    let (old, new) = ("2025-03-31".parse().unwrap(), "2025-04-01".parse().unwrap());
    let flag = |name: &str| [name.to_owned()];
    assert!(host_assets::navigation_prefers_assets(None, &[]));
    assert!(host_assets::navigation_prefers_assets(Some(new), &[]));
    assert!(!host_assets::navigation_prefers_assets(Some(old), &[]));
    assert!(host_assets::navigation_prefers_assets(Some(old), &flag("assets_navigation_prefers_asset_serving")));
    assert!(!host_assets::navigation_prefers_assets(Some(new), &flag("assets_navigation_has_no_effect")));
}

#[tokio::test]
async fn only_get_and_head_find_a_file() {
    let site = Site::new(TREE, |_| {});
    let asked = |method| Get { method, ..Get::of("/page") };
    let refused = site.fetch(asked(Method::DELETE)).await;
    assert_eq!(refused.status(), 405);
    assert_eq!(header(&refused, "allow"), Some("GET, HEAD"));
    let head = site.fetch(asked(Method::HEAD)).await;
    assert_eq!(head.status(), 200);
    assert_eq!(header(&head, "content-length"), Some("18"));
    assert_eq!(crate::site::short(head).await, "200");
    assert_eq!(site.fetches(Get { method: Method::OPTIONS, ..Get::of("*") }).await, "404");
}

#[tokio::test]
async fn a_file_has_one_spelling() {
    let site = Site::new(&["/[x].html", "/b\u{f2}/a b.txt", "/%5Bx%5D.html", "/q?.html"], |_| {});
    let rows = [
        ("/%5Bx%5D", "200 this is /[x].html"),
        ("/[x]", "307 /%5Bx%5D"),
        ("/[x].html", "307 /%5Bx%5D"),
        ("/%255Bx%255D", "200 this is /%5Bx%5D.html"),
        ("/b%C3%B2/a%20b.txt", "200 this is /b\u{f2}/a b.txt"),
        ("/b%c3%b2/a%20b.txt", "307 /b%C3%B2/a%20b.txt"),
        ("/b%C3%B2%2Fa%20b.txt?x", "307 /b%C3%B2/a%20b.txt?x"),
        ("//b%C3%B2//a%20b.txt", "307 /b%C3%B2/a%20b.txt"),
        ("/q%3F", "200 this is /q?.html"),
        ("/q?", "404"),
    ];
    for (path, expected) in rows {
        assert_eq!(site.fetches(Get::of(path)).await, expected, "{path}");
    }
}

#[tokio::test]
async fn files_answer_under_the_base_alone() {
    let files = ["/index.html", "/page.html", "/dir/index.html", "/docs/x.txt"];
    let under = |html| {
        Site::new(&files, move |settings| {
            settings.base_path = Some("/docs/".into());
            settings.html_handling = html;
            settings.not_found_handling = NotFoundHandling::SinglePageApplication;
        })
    };
    let rows = [
        ("/docs/page", "200 this is /page.html"),
        ("/docs/page.html?q", "307 /docs/page?q"),
        ("/docs/dir", "307 /docs/dir/"),
        ("/docs", "307 /docs/"),
        ("/docs/", "200 this is /index.html"),
        ("/docs/docs/x.txt", "200 this is /docs/x.txt"),
        ("/docs%2Fpage", "307 /docs/page"),
        ("/docs//page", "307 /docs/page"),
        ("/docs/nothing", "200 this is /index.html"),
        ("/docs/../page", "404"),
        ("/page", "404"),
        ("/docsx/page", "404"),
        ("/", "404"),
    ];
    let site = under(HtmlHandling::AutoTrailingSlash);
    for (path, expected) in rows {
        assert_eq!(site.fetches(Get::of(path)).await, expected, "{path}");
    }
    let site = under(HtmlHandling::DropTrailingSlash);
    for (path, expected) in [
        ("/docs/?q=1", "307 /docs?q=1"),
        ("/docs", "200 this is /index.html"),
        ("/docs/index.html", "307 /docs"),
        ("/docs/dir/", "307 /docs/dir"),
    ] {
        assert_eq!(site.fetches(Get::of(path)).await, expected, "{path}");
    }
}

#[tokio::test]
async fn pages_with_the_same_content_are_one_page() {
    // `/both.html` cannot be reached at `/both/`, where the other page is; if they hold the same, nobody can tell.
    let both = ["/both.html", "/both/index.html"];
    let site = Site::new(&both, |settings| settings.html_handling = HtmlHandling::ForceTrailingSlash);
    assert_eq!(site.fetches(Get::of("/both.html")).await, "200 this is /both.html");
    site.write("/both.html", "same");
    site.write("/both/index.html", "same");
    assert_eq!(site.fetches(Get::of("/both.html")).await, "307 /both/");
}

#[tokio::test]
async fn what_runs_first_is_decided_by_the_path_as_a_url_has_it() {
    let file = "name = 'a'\nmain = 'a.wasm'\n[assets]\ndirectory = '.'\nbinding = 'ASSETS'\nrun_worker_first = ['/api/*', '!/api/docs/*']\n";
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("a.wasm"), b"\0asm").unwrap();
    std::fs::write(scratch.path().join("wrangler.toml"), file).unwrap();
    let options = host_config::LoadOptions { directory: scratch.path().to_owned(), ..Default::default() };
    let project = host_config::load(&options).unwrap();
    let assets = host_assets::Assets::open(project.workers[0].assets.as_ref().unwrap()).unwrap();
    for path in ["/api/x", "/x/../api/x", "/api/docs/../x"] {
        assert!(assets.worker_first(path), "{path}");
    }
    for path in ["/api", "/api/docs/x", "/api/x/../docs/y", "/"] {
        assert!(!assets.worker_first(path), "{path}");
    }
    assert_eq!(assets.turn("/api/docs/x"), host_assets::Turn::Assets);
    assert_eq!(assets.turn("/"), host_assets::Turn::AssetsThenWorker);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    let error = host_assets::Assets::open(&crate::site::settings(&missing)).err().unwrap();
    assert!(error.to_string().contains("missing"), "{error}");
}
