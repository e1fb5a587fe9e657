//! `_headers`, `_redirects` and `.assetsignore` among the files.

use host_config::{HtmlHandling, NotFoundHandling};
use http::Method;

use crate::site::{Get, Site, header};

#[tokio::test]
async fn headers_apply_to_whatever_is_answered() {
    let site = Site::new(&["/a.html", "/b.txt"], |_| {});
    site.write(
        "_headers",
        "/*\n  X-All: yes\n  Cache-Control: public, max-age=60\n/b.*\n  ! ETag\n  X-All: also\n\
         https://other.example/*\n  X-Other: 1\n/a/:what\n  X-What: :what\n",
    );
    let file = site.fetch(Get::of("/b.txt")).await;
    assert_eq!(header(&file, "cache-control"), Some("public, max-age=60"));
    assert_eq!(header(&file, "etag"), None);
    let all: Vec<_> = file.headers().get_all("x-all").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(all, ["yes", "also"]);
    assert_eq!(header(&file, "x-other"), None);
    let other = site.fetch(Get { host: "OTHER.example:8787", ..Get::of("/b.txt") }).await;
    assert_eq!(header(&other, "x-other"), Some("1"));
    for (path, status) in [("/a.html", 307), ("/nothing", 404)] {
        let response = site.fetch(Get::of(path)).await;
        assert_eq!((response.status().as_u16(), header(&response, "x-all")), (status, Some("yes")), "{path}");
    }
    assert_eq!(header(&site.fetch(Get::of("/a/x%20y")).await, "x-what"), Some("x%20y"));
    let refused = site.fetch(Get { method: Method::POST, ..Get::of("/a") }).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "x-all")), (405, Some("yes")));
}

#[tokio::test]
async fn the_length_of_a_body_cannot_be_set() {
    let site = Site::new(&["/a.txt"], |_| {});
    site.write("_headers", "/*\n  Content-Length: 3\n  Transfer-Encoding: chunked\n  X: 1\n");
    let response = site.fetch(Get::of("/a.txt")).await;
    assert_eq!(header(&response, "content-length"), Some("14"));
    assert_eq!(header(&response, "transfer-encoding"), None);
    let warnings: Vec<String> = site.assets.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].starts_with("_headers:2: "), "{warnings:?}");
}

#[tokio::test]
async fn redirects_come_before_files_and_before_the_worker() {
    let site = Site::new(&["/a.html", "/pages/about.html", "/users/id.html"], |settings| {
        settings.not_found_handling = NotFoundHandling::SinglePageApplication;
    });
    site.write(
        "_redirects",
        "/a /moved\n/q /to?own=1 301\n/away https://other.example/x#y 303\n/home https://example.com/there 308\n\
         /me /pages/about 200\n/gone /pages/nothing 200\n/users/:id /users/id 200\n/old/* /new/:splat 307\n",
    );
    let rows = [
        ("/a", "302 /moved"),
        ("/a?x=1", "302 /moved?x=1"),
        ("/q?x=1", "301 /to?own=1"),
        ("/away?x=1", "303 https://other.example/x?x=1#y"),
        ("/home", "308 /there"),
        ("/me", "200 this is /pages/about.html"),
        ("/gone", "404"),
        ("/users/7", "200 this is /users/id.html"),
        ("/old/x/y?z", "307 /new/x/y?z"),
        ("/old//evil.example/", "307 /new/evil.example/"),
        ("/b/../a", "302 /moved"),
        ("/other", "worker"),
    ];
    for (path, expected) in rows {
        assert_eq!(site.says(Get::of(path)).await, expected, "{path}");
    }
    assert_eq!(site.says(Get { method: Method::POST, ..Get::of("/a") }).await, "302 /moved");
}

#[tokio::test]
async fn rules_are_of_the_public_path_under_a_base() {
    let site = Site::new(&["/a.txt"], |settings| {
        settings.base_path = Some("/docs/".into());
        settings.html_handling = HtmlHandling::None;
    });
    site.write("_redirects", "/docs/b /docs/a.txt 200\n/docs/c /a.txt 200\n/d /docs/a.txt\n/docs /docs/start\n");
    site.write("_headers", "/docs/*\n  X: 1\n/other\n  X: 2\n");
    let rows = [("/docs/b", "200 this is /a.txt"), ("/docs/c", "404"), ("/d", "worker"), ("/docs", "302 /docs/start")];
    for (path, expected) in rows {
        assert_eq!(site.says(Get::of(path)).await, expected, "{path}");
    }
    assert_eq!(header(&site.fetch(Get::of("/docs/a.txt")).await, "x"), Some("1"));
    assert_eq!(header(&site.fetch(Get::of("/other")).await, "x"), None);
}

#[tokio::test]
async fn rules_are_read_again_when_they_change() {
    let site = Site::new(&["/a.txt"], |_| {});
    assert_eq!(site.says(Get::of("/x")).await, "worker");
    site.write("_redirects", "/x /y");
    assert_eq!(site.says(Get::of("/x")).await, "302 /y");
    site.write("_redirects", "/x /z");
    assert_eq!(site.says(Get::of("/x")).await, "302 /z");
    site.write("_redirects", "nonsense");
    assert_eq!(site.says(Get::of("/x")).await, "worker");
    let warnings: Vec<String> = site.assets.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.len() == 1 && warnings[0].starts_with("_redirects:1: "), "{warnings:?}");
    std::fs::remove_file(site.directory.path().join("_redirects")).unwrap();
    assert_eq!(site.says(Get::of("/x")).await, "worker");
    assert!(site.assets.warnings().is_empty());
}

#[tokio::test]
async fn what_is_ignored_is_not_there() {
    let files = ["/a.txt", "/a.bak", "/dir/b.bak", "/private/x.txt", "/private/public.txt", "/keep.bak", "/index.html"];
    let site = Site::new(&files, |settings| settings.not_found_handling = NotFoundHandling::SinglePageApplication);
    site.write(".assetsignore", "# comment\n*.bak\n!keep.bak\nprivate\n/index.html\n");
    for path in ["/a.bak", "/dir/b.bak", "/private/x.txt", "/private/public.txt", "/", "/index.html"] {
        assert_eq!(site.fetches(Get::of(path)).await, "404", "{path}");
    }
    assert_eq!(site.fetches(Get::of("/a.txt")).await, "200 this is /a.txt");
    assert_eq!(site.fetches(Get::of("/keep.bak")).await, "200 this is /keep.bak");
}

#[tokio::test]
async fn what_might_be_ignored_is_not_shown() {
    let site = Site::new(&["/a.txt"], |_| {});
    std::fs::create_dir(site.directory.path().join(".assetsignore")).unwrap();
    assert_eq!(site.fetches(Get::of("/a.txt")).await, "404");
    assert!(site.assets.warnings()[0].to_string().starts_with(".assetsignore: "));
}
