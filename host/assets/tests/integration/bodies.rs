//! What is sent of a file: types, tags, ranges, pieces.

use std::fs::File;

use host_assets::PIECE_BYTES;
use host_config::NotFoundHandling;
use http::Method;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use crate::site::{Get, Site, content, header};

#[tokio::test]
async fn a_file_is_described() {
    let files = ["/a.txt", "/a.css", "/a.js", "/a.json", "/a.svg", "/a.WASM", "/a.unheard-of", "/a", "/a.js.map"];
    let site = Site::new(&files, |_| {});
    let rows = [
        ("/a.txt", Some("text/plain; charset=utf-8")),
        ("/a.css", Some("text/css; charset=utf-8")),
        ("/a.js", Some("text/javascript; charset=utf-8")),
        ("/a.json", Some("application/json")),
        ("/a.svg", Some("image/svg+xml")),
        ("/a.WASM", Some("application/wasm")),
        ("/a.js.map", Some("application/json")),
        ("/a.unheard-of", None),
        ("/a", None),
    ];
    for (path, expected) in rows {
        let response = site.fetch(Get::of(path)).await;
        assert_eq!(header(&response, "content-type"), expected, "{path}");
        assert_eq!(header(&response, "cache-control"), Some("public, max-age=0, must-revalidate"));
        assert_eq!(header(&response, "content-length"), Some((8 + path.len()).to_string().as_str()));
    }
    let private = site.fetch(Get { headers: &[("authorization", "x")], ..Get::of("/a.txt") }).await;
    assert_eq!(header(&private, "cache-control"), None);
}

#[tokio::test]
async fn a_file_that_the_peer_has_is_not_sent() {
    let site = Site::new(&["/a.txt", "/404.html"], |settings| {
        settings.not_found_handling = NotFoundHandling::NotFoundPage;
    });
    let first = site.fetch(Get::of("/a.txt")).await;
    let etag = header(&first, "etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.len() == 34, "a strong tag: {etag}");
    for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
        let again = site.fetch(Get { headers: &[("if-none-match", &known)], ..Get::of("/a.txt") }).await;
        assert_eq!(again.status(), 304, "{known}");
        assert_eq!(header(&again, "etag"), Some(etag.as_str()));
        assert_eq!(header(&again, "content-length"), None);
        assert!(content(again).await.is_empty());
    }
    // As long as before, and changed within the same tick.
    site.write("/a.txt", "this is /b.txt");
    let changed = site.fetch(Get { headers: &[("if-none-match", &etag)], ..Get::of("/a.txt") }).await;
    assert_eq!(changed.status(), 200);
    assert_ne!(header(&changed, "etag"), Some(etag.as_str()));
    assert_eq!(content(changed).await, b"this is /b.txt");
}

#[tokio::test]
async fn a_part_is_sent() {
    let site = Site::new(&["/a.txt", "/404.html"], |settings| {
        settings.not_found_handling = NotFoundHandling::NotFoundPage;
    });
    let etag = header(&site.fetch(Get::of("/a.txt")).await, "etag").unwrap().to_owned();
    // "this is /a.txt"
    let rows = [
        ("bytes=0-3", 206, Some("bytes 0-3/14"), "this"),
        ("bytes=8-", 206, Some("bytes 8-13/14"), "/a.txt"),
        ("bytes=-4", 206, Some("bytes 10-13/14"), ".txt"),
        ("bytes=13-99", 206, Some("bytes 13-13/14"), "t"),
        ("bytes=14-", 416, Some("bytes */14"), ""),
        ("bytes=-0", 416, Some("bytes */14"), ""),
        ("bytes=0-1,3-4", 200, None, "this is /a.txt"),
        ("bytes=4-1", 200, None, "this is /a.txt"),
        ("rows=0-3", 200, None, "this is /a.txt"),
    ];
    for (range, status, content_range, expected) in rows {
        let response = site.fetch(Get { headers: &[("range", range)], ..Get::of("/a.txt") }).await;
        assert_eq!(response.status(), status, "{range}");
        assert_eq!(header(&response, "content-range"), content_range, "{range}");
        assert_eq!(header(&response, "cache-control"), None, "{range}");
        if status != 416 {
            assert_eq!(header(&response, "content-length"), Some(expected.len().to_string().as_str()), "{range}");
        }
        assert_eq!(content(response).await, expected.as_bytes(), "{range}");
    }
    for (tag, status) in [(etag.as_str(), 206), ("\"other\"", 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)] {
        let response =
            site.fetch(Get { headers: &[("range", "bytes=0-0"), ("if-range", tag)], ..Get::of("/a.txt") }).await;
        assert_eq!(response.status(), status, "{tag}");
    }
    let twice = [("range", "bytes=0-0"), ("range", "bytes=1-1")];
    assert_eq!(site.fetch(Get { headers: &twice, ..Get::of("/a.txt") }).await.status(), 200);
    let part = [("range", "bytes=0-0")];
    let head = Get { method: Method::HEAD, headers: &part, ..Get::of("/a.txt") };
    assert_eq!(site.fetch(head).await.status(), 200, "a range is for GET");
    assert_eq!(
        site.fetch(Get { headers: &part, ..Get::of("/x") }).await.status(),
        404,
        "a page that stands in is whole"
    );
}

#[tokio::test]
async fn a_large_file_comes_in_pieces() {
    let site = Site::new(&[], |_| {});
    let whole: Vec<u8> = (0..PIECE_BYTES * 3 + 17).map(|at| (at % 251) as u8).collect();
    std::fs::write(site.directory.path().join("large.bin"), &whole).unwrap();
    let mut body = site.fetch(Get::of("/large.bin")).await.into_body();
    assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
    let (mut got, mut pieces) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= PIECE_BYTES);
        got.extend_from_slice(&data);
        pieces += 1;
        assert_eq!(body.size_hint().exact(), Some((whole.len() - got.len()) as u64));
    }
    assert!(body.is_end_stream());
    assert_eq!(pieces, 4);
    assert!(got == whole);
    let part = site.fetch(Get { headers: &[("range", "bytes=65530-196600")], ..Get::of("/large.bin") }).await;
    assert!(content(part).await == whole[65530..=196600]);
}

#[tokio::test]
async fn the_end_of_a_file_over_every_limit_is_sent_alone() {
    let site = Site::new(&[], |_| {});
    // Sparse: a terabyte that takes no room, and that could be neither hashed nor held.
    File::create(site.directory.path().join("huge.bin")).unwrap().set_len(1 << 40).unwrap();
    let response = site.fetch(Get { headers: &[("range", "bytes=-3")], ..Get::of("/huge.bin") }).await;
    assert_eq!(header(&response, "content-range"), Some("bytes 1099511627773-1099511627775/1099511627776"));
    assert!(header(&response, "etag").is_some());
    assert_eq!(content(response).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_file_that_is_cut_off_ends_in_an_error() {
    let site = Site::new(&[], |_| {});
    let path = site.directory.path().join("a.bin");
    std::fs::write(&path, vec![1; PIECE_BYTES * 2]).unwrap();
    let mut body = site.fetch(Get::of("/a.bin")).await.into_body();
    File::options().write(true).open(&path).unwrap().set_len(PIECE_BYTES as u64 + 1).unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let site = Site::new(&[], |_| {});
    site.write("/empty.txt", "");
    let response = site.fetch(Get::of("/empty.txt")).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, Some("0")));
    assert!(content(response).await.is_empty());
    let part = site.fetch(Get { headers: &[("range", "bytes=0-")], ..Get::of("/empty.txt") }).await;
    assert_eq!(part.status(), 416);
}
