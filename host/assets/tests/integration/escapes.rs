//! No path leads out of the directory, or to what is not for the outside.

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use proptest::prelude::*;

use host_config::{HtmlHandling, NotFoundHandling};

use crate::site::{Get, Site};

/// A directory with secrets beside it and in it. What is beside it has no dot in its name, with which it would not be
/// served for another reason.
fn surrounded() -> (tempfile::TempDir, Site) {
    let around = tempfile::Builder::new().prefix("around").tempdir().unwrap();
    let site = Site::new(
        &[
            "/a.txt",
            "/dir/b.txt",
            "/.env",
            "/.git/config",
            "/dir/.hidden",
            "/node_modules/x.js",
            "/_worker.js",
            "/_headers",
            "/_redirects",
            "/.well-known/security.txt",
        ],
        |_| {},
    );
    // The rules files must be rules; what they say is a secret like any.
    site.write("/_headers", "# SECRET\n");
    site.write("/_redirects", "# SECRET\n");
    site.write("/.assetsignore", "# SECRET\n");
    for file in ["/.env", "/.git/config", "/dir/.hidden", "/node_modules/x.js", "/_worker.js"] {
        site.write(file, "SECRET");
    }
    std::fs::write(around.path().join("secret.txt"), "SECRET").unwrap();
    std::fs::create_dir(around.path().join("more")).unwrap();
    std::fs::write(around.path().join("more/secret.txt"), "SECRET").unwrap();
    (around, site)
}

#[tokio::test]
async fn known_ways_out_are_closed() {
    let (around, site) = surrounded();
    let secret = around.path().join("secret.txt");
    let absolute = secret.to_str().unwrap();
    let up = "../".repeat(20);
    let encoded_up = "%2e%2e%2f".repeat(20);
    let double_up = "%252e%252e%252f".repeat(20);
    let overlong_up = "%c0%ae%c0%ae/".repeat(20);
    let backslash_up = "..\\".repeat(20);
    let encoded_backslash_up = "..%5c".repeat(20);
    let mut paths = vec![
        format!("/{absolute}"),
        absolute.to_owned(),
        format!("/{}", absolute.replace('/', "%2F")),
        format!("/%2F{absolute}"),
        format!("file://{absolute}"),
    ];
    for up in [&up, &encoded_up, &double_up, &overlong_up, &backslash_up, &encoded_backslash_up] {
        paths.push(format!("/{up}{absolute}"));
        paths.push(format!("/dir/{up}{absolute}"));
        paths.push(format!("/a.txt/{up}{absolute}"));
    }
    paths.extend(
        [
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/dir/.hidden",
            "/dir/%2Ehidden",
            "/node_modules/x.js",
            "/_worker.js",
            "/_headers",
            "/_redirects",
            "/.assetsignore",
            "/%5Fheaders",
            "/dir/../_headers",
            "/dir%2F..%2F.env",
            "/a.txt%00",
            "/.env%00.txt",
            "/dir/",
            "/dir",
            "/",
            "",
            "*",
        ]
        .map(str::to_owned),
    );
    paths.push(format!("/{}", "a/".repeat(100_000)));
    paths.push(format!("/{}", "%2e".repeat(10_000)));
    for path in &paths {
        let said = site.fetches(Get::of(path)).await;
        assert!(said == "404" || said.starts_with("307 /") && !said.starts_with("307 //"), "{path}: {said}");
    }
    assert_eq!(site.fetches(Get::of("/.well-known/security.txt")).await, "200 this is /.well-known/security.txt");
}

#[cfg(unix)]
#[tokio::test]
async fn links_lead_no_further_than_the_directory() {
    use std::os::unix::fs::symlink;
    let (around, site) = surrounded();
    let inside = site.directory.path();
    symlink(around.path().join("secret.txt"), inside.join("out.txt")).unwrap();
    symlink(around.path(), inside.join("outside")).unwrap();
    symlink(inside.join(".env"), inside.join("hidden.txt")).unwrap();
    symlink(inside.join(".git"), inside.join("repository")).unwrap();
    symlink(inside.join("_headers"), inside.join("headers.txt")).unwrap();
    symlink(inside.join("a.txt"), inside.join("same.txt")).unwrap();
    symlink(inside.join("loop"), inside.join("loop")).unwrap();
    symlink("/dev/zero", inside.join("zero")).unwrap();
    for path in [
        "/out.txt",
        "/outside/secret.txt",
        "/outside/more/secret.txt",
        "/hidden.txt",
        "/repository/config",
        "/headers.txt",
        "/loop",
        "/zero",
    ] {
        assert_eq!(site.fetches(Get::of(path)).await, "404", "{path}");
    }
    assert_eq!(site.fetches(Get::of("/same.txt")).await, "200 this is /a.txt");
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_is_no_file() {
    let (_around, site) = surrounded();
    let pipe = std::ffi::CString::new(site.directory.path().join("pipe.txt").to_str().unwrap()).unwrap();
    let made = std::process::Command::new("mkfifo").arg(pipe.to_str().unwrap()).status().unwrap();
    assert!(made.success());
    assert_eq!(site.fetches(Get::of("/pipe.txt")).await, "404");
}

/// Parts that lead somewhere in a file system, and anything else.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let known = vec![
        "..",
        ".",
        "/",
        "\\",
        "%2e",
        "%2f",
        "%5c",
        "%00",
        "%",
        "%25",
        "a.txt",
        "dir",
        "b.txt",
        ".env",
        ".git",
        "config",
        "out",
        "out/secret.txt",
        "out/more",
        "secret.txt",
        "_headers",
        "_redirects",
        "node_modules",
        "x.js",
        "index",
        ".html",
        "more",
        "\u{2024}",
        "C:",
        "~",
    ];
    prop_oneof![
        6 => proptest::sample::select(known).prop_map(|part| part.as_bytes().to_vec()),
        2 => Just(b"/".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_path_whatever_leads_to_a_secret(
        parts in proptest::collection::vec(part(), 0..12),
        encode in any::<bool>(),
        html in 0usize..4,
        app in any::<bool>(),
    ) {
        thread_local! {
            static SHARED: (tokio::runtime::Runtime, tempfile::TempDir, Vec<Site>) = shared();
        }
        let bytes: Vec<u8> = parts.concat();
        let path = if encode {
            format!("/{}", percent_encode(&bytes, NON_ALPHANUMERIC))
        } else {
            format!("/{}", String::from_utf8_lossy(&bytes))
        };
        SHARED.with(|(runtime, _, sites)| {
            let site = &sites[html * 2 + usize::from(app)];
            let said = runtime.block_on(site.fetches(Get::of(&path)));
            prop_assert!(!said.contains("SECRET"), "{path}: {said}");
            prop_assert!(!said.starts_with("307 //") && !said.starts_with("500"), "{path}: {said}");
            if let Some(content) = said.strip_prefix("200 ") {
                let known = ["this is /a.txt", "this is /dir/b.txt", "this is /.well-known/security.txt"];
                prop_assert!(known.contains(&content), "{path}: {said}");
            }
            Ok(())
        })?;
    }
}

/// One directory, served in every way.
fn shared() -> (tokio::runtime::Runtime, tempfile::TempDir, Vec<Site>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let around = tempfile::Builder::new().prefix("around").tempdir().unwrap();
    std::fs::write(around.path().join("secret.txt"), "SECRET").unwrap();
    let mut sites = Vec::new();
    for html in [
        HtmlHandling::AutoTrailingSlash,
        HtmlHandling::ForceTrailingSlash,
        HtmlHandling::DropTrailingSlash,
        HtmlHandling::None,
    ] {
        for not_found in [NotFoundHandling::None, NotFoundHandling::NotFoundPage] {
            let (_, mut site) = surrounded();
            #[cfg(unix)]
            std::os::unix::fs::symlink(around.path(), site.directory.path().join("out")).unwrap();
            let mut settings = crate::site::settings(site.directory.path());
            settings.html_handling = html;
            settings.not_found_handling = not_found;
            site.assets = host_assets::Assets::open(&settings).unwrap();
            sites.push(site);
        }
    }
    (runtime, around, sites)
}
