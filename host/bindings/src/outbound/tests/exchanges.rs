//! Requests over plain HTTP: the filter in front of real sockets, streaming, timeouts, and connections used again.

use super::*;
use futures::SinkExt;
use futures::channel::mpsc;
use http_body_util::StreamBody;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::sync::Notify;

type Frames = mpsc::Sender<Result<http_body::Frame<Bytes>, Error>>;

fn streaming() -> (Frames, WasiBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, StreamBody::new(receiver).boxed_unsync())
}

fn chunk(text: &'static str) -> Result<http_body::Frame<Bytes>, Error> {
    Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn next_chunk(body: &mut WasiBody) -> Option<Result<String, Error>> {
    let frame = patiently(body.frame()).await?;
    Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
}

fn limits(change: impl FnOnce(&mut RequestOptions)) -> Option<RequestOptions> {
    let mut options = RequestOptions::default();
    change(&mut options);
    Some(options)
}

const SOON: Option<Duration> = Some(Duration::from_millis(50));

/// Waits until the connection of a finished exchange is back in the pool.
async fn pooled(client: &Client, count: usize) {
    patiently(async {
        while client.0.pool.len() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_rule_opens_a_private_destination() {
    let server = Server::echoing_heads().await;
    let client = Client::new().unwrap();
    let rule = server.address.to_string();
    let head = fetch(&client, &policy(&[&rule]), get(&format!("{}x?y=z", server.url()))).await.unwrap();
    assert!(head.starts_with("GET /x?y=z HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {}\r\n", server.address)), "{head}");
}

#[tokio::test]
async fn a_call_can_run_as_a_task_of_its_own() {
    let server = Server::echoing_heads().await;
    let (client, policy, request) = (Client::new().unwrap(), policy(&["127.0.0.1"]), get(&server.url()));
    let call = tokio::spawn(async move { client.send(&policy, request, None).await });
    let (response, transmission) = patiently(call).await.unwrap().unwrap();
    let reading = tokio::spawn(text(response));
    let finishing = tokio::spawn(transmission);
    assert!(patiently(reading).await.unwrap().starts_with("GET / "));
    patiently(finishing).await.unwrap().unwrap();
}

#[tokio::test]
async fn private_destinations_are_refused_before_any_connection() {
    let server = Server::echoing_heads().await;
    let v6 = TcpListener::bind("[::1]:0").await.ok();
    let port = server.address.port();
    let client = Client::new().unwrap();
    let hosts =
        ["127.0.0.1", "127.9.9.9", "localhost", "LocalHost", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "0.0.0.0", "[::]"];
    for host in hosts {
        let result = fetch(&client, &policy(&[]), get(&format!("http://{host}:{port}/"))).await;
        assert!(matches!(result, Err(Error::HttpRequestDenied)), "{host}: {result:?}");
    }
    let v6_port = v6.as_ref().map_or(port, |listener| listener.local_addr().unwrap().port());
    for uri in [format!("http://[::1]:{v6_port}/"), "http://169.254.169.254/latest/meta-data/".to_owned()] {
        let result = fetch(&client, &policy(&[]), get(&uri)).await;
        assert!(matches!(result, Err(Error::HttpRequestDenied)), "{uri}: {result:?}");
    }
    assert_eq!(server.connections(), 0);
    if let Some(listener) = v6 {
        assert!(tokio::time::timeout(Duration::from_millis(20), listener.accept()).await.is_err());
    }
}

#[tokio::test]
async fn old_notations_of_addresses_do_not_pass() {
    let server = Server::echoing_heads().await;
    let port = server.address.port();
    let client = Client::new().unwrap();
    for host in ["2130706433", "0x7f.1", "0x7f000001", "127.1", "0177.0.0.1", "017700000001"] {
        let result = fetch(&client, &policy(&[]), get(&format!("http://{host}:{port}/"))).await;
        // A resolver either reads them as the loopback address, or finds no such name.
        assert!(matches!(result, Err(Error::HttpRequestDenied | Error::DnsError { .. })), "{host}: {result:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_disabled_policy_looks_nothing_up() {
    let (client, script) = scripted();
    script.answer(&[PUBLIC]);
    let off = Policy::new(false, &[]).unwrap();
    assert!(matches!(fetch(&client, &off, get("http://a.example/")).await, Err(Error::HttpRequestDenied)));
    assert_eq!((script.lookups(), script.dialled().len()), (0, 0));
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_looked_up_once() {
    let server = Server::echoing_heads().await;
    let (client, script) = scripted();
    script.answer(&[PUBLIC]);
    script.answer(&[Ipv4Addr::LOCALHOST.into()]);
    script.route(PUBLIC, Route::To(server.address));
    fetch(&client, &policy(&[]), get("http://rebind.example/")).await.unwrap();
    assert_eq!(script.lookups(), 1);
    assert_eq!(script.dialled(), [SocketAddr::new(PUBLIC, 80)]);

    // The worker of another policy looks up anew, and gets the private answer.
    let result = fetch(&client, &policy(&[]), get("http://rebind.example/")).await;
    assert!(matches!(result, Err(Error::HttpRequestDenied)), "{result:?}");
    assert_eq!(script.lookups(), 2);
    assert_eq!(script.dialled().len(), 1);
}

#[tokio::test]
async fn only_addresses_that_pass_are_tried() {
    let server = Server::echoing_heads().await;
    let (client, script) = scripted();
    let dead: IpAddr = "2606:4700::1".parse().unwrap();
    let hanging: IpAddr = "9.9.9.9".parse().unwrap();
    script.answer(&[Ipv4Addr::LOCALHOST.into(), dead, hanging, "10.0.0.1".parse().unwrap(), PUBLIC]);
    script.route(hanging, Route::Nowhere);
    script.route(PUBLIC, Route::To(server.address));
    fetch(&client, &policy(&[]), get("http://many.example:8080/")).await.unwrap();
    let tried = [dead, hanging, PUBLIC].map(|address| SocketAddr::new(address, 8080));
    assert_eq!(script.dialled(), tried);
}

#[tokio::test]
async fn names_without_a_usable_address_have_their_own_errors() {
    let (client, script) = scripted();
    script.answer(&[]);
    let result = fetch(&client, &policy(&[]), get("http://empty.example/")).await;
    assert!(matches!(result, Err(Error::DestinationNotFound)), "{result:?}");
    script.answer(&[PUBLIC]);
    let result = fetch(&client, &policy(&[]), get("http://down.example/")).await;
    assert!(matches!(result, Err(Error::ConnectionRefused)), "{result:?}");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let server = Server::start(|stream, _| async move {
        let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), echo)
            .await
            .map_err(io::Error::other)
    })
    .await;
    let client = Client::new().unwrap();
    let (mut sender, body) = streaming();
    let request = Request::post(server.url()).body(body).unwrap();
    let (response, transmission) = patiently(client.send(&policy(&["127.0.0.1"]), request, None)).await.unwrap();
    let mut body = response.into_body();
    for text in ["one", "two", "three"] {
        sender.send(chunk(text)).await.unwrap();
        assert_eq!(next_chunk(&mut body).await.unwrap().unwrap(), text);
    }
    drop(sender);
    assert!(next_chunk(&mut body).await.is_none());
    patiently(transmission).await.unwrap();
    pooled(&client, 1).await;
}

#[tokio::test]
async fn a_failing_request_body_fails_the_exchange() {
    let server = Server::start(|mut stream, _| async move {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(())
    })
    .await;
    let client = Client::new().unwrap();
    let (mut sender, body) = streaming();
    sender.send(Err(Error::HttpRequestBodySize(Some(3)))).await.unwrap();
    let request = Request::post(server.url()).body(body).unwrap();
    let result = fetch(&client, &policy(&["127.0.0.1"]), request).await;
    assert!(matches!(result, Err(Error::HttpRequestBodySize(Some(3)))), "{result:?}");
}

#[tokio::test]
async fn a_stalled_response_times_out_between_bytes() {
    let server = Server::start(|mut stream, _| async move {
        read_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").await?;
        std::future::pending().await
    })
    .await;
    let client = Client::new().unwrap();
    let options = limits(|options| options.between_bytes_timeout = SOON);
    let (response, _) = patiently(client.send(&policy(&["127.0.0.1"]), get(&server.url()), options)).await.unwrap();
    let mut body = response.into_body();
    // A guest that does not ask for bytes is not waiting for them.
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(next_chunk(&mut body).await.unwrap().unwrap(), "first");
    assert!(matches!(next_chunk(&mut body).await, Some(Err(Error::ConnectionReadTimeout))));
    assert!(next_chunk(&mut body).await.is_none());
}

#[tokio::test]
async fn silence_times_out_at_each_stage() {
    let silent = Server::start(|stream, _| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let (client, script) = scripted();
    let policy = policy(&[]);

    let options = limits(|options| options.connect_timeout = SOON);
    let result = patiently(client.send(&policy, get("http://a.example/"), options)).await;
    assert!(matches!(result.err(), Some(Error::DnsTimeout)));

    script.answer(&[PUBLIC]);
    script.route(PUBLIC, Route::Nowhere);
    let result = patiently(client.send(&policy, get("http://a.example/"), options)).await;
    assert!(matches!(result.err(), Some(Error::ConnectionTimeout)));

    script.answer(&[PUBLIC]);
    script.route(PUBLIC, Route::To(silent.address));
    let result = patiently(client.send(&policy, get("https://a.example/"), options)).await;
    assert!(matches!(result.err(), Some(Error::ConnectionTimeout)), "TLS counts as connecting");

    script.answer(&[PUBLIC]);
    let options = limits(|options| options.first_byte_timeout = SOON);
    let result = patiently(client.send(&policy, get("http://a.example/"), options)).await;
    assert!(matches!(result.err(), Some(Error::ConnectionReadTimeout)));
}

#[test]
fn timeouts_have_ceilings() {
    let day = Some(Duration::from_secs(86_400));
    let asked = RequestOptions { connect_timeout: day, first_byte_timeout: day, between_bytes_timeout: day };
    let limits = Timeouts::new(asked);
    assert_eq!([limits.connect, limits.first_byte, limits.between_bytes].map(|limit| limit.as_secs()), [10, 600, 600]);
}

/// A server that streams without end and reports when its client has gone.
async fn endless() -> (Server, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let server = Server::start(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            read_head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
            tell.notify_one();
            Ok(())
        }
    })
    .await;
    (server, gone)
}

#[tokio::test]
async fn dropping_the_response_closes_the_connection() {
    let (server, gone) = endless().await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    let (response, transmission) = patiently(client.send(&policy, get(&server.url()), None)).await.unwrap();
    let mut body = response.into_body();
    assert!(next_chunk(&mut body).await.unwrap().is_ok());
    drop(body);
    patiently(gone.notified()).await;
    patiently(transmission).await.unwrap();
    assert_eq!(client.0.pool.len(), 0);
    assert_eq!(policy.exchanges().available_permits(), 256, "the place is free again");
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    let (reached, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_reached, tell_gone) = (Arc::clone(&reached), Arc::clone(&gone));
    let server = Server::start(move |mut stream, _| {
        let (reached, gone) = (Arc::clone(&tell_reached), Arc::clone(&tell_gone));
        async move {
            read_head(&mut stream).await?;
            reached.notify_one();
            while stream.read_u8().await.is_ok() {}
            gone.notify_one();
            Ok(())
        }
    })
    .await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    tokio::select! {
        _ = client.send(&policy, get(&server.url()), None) => panic!("there is no response"),
        () = patiently(reached.notified()) => {}
    }
    patiently(gone.notified()).await;
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::echoing_heads().await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    for _ in 0..3 {
        fetch(&client.clone(), &policy.clone(), get(&server.url())).await.unwrap();
        pooled(&client, 1).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_response_without_a_body_frees_its_connection() {
    let server = Server::start(|mut stream, _| async move {
        while read_head(&mut stream).await?.is_some() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        }
        Ok(())
    })
    .await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    let (response, transmission) = patiently(client.send(&policy, get(&server.url()), None)).await.unwrap();
    assert!(response.body().is_end_stream());
    patiently(transmission).await.unwrap();
    pooled(&client, 1).await;
}

#[tokio::test]
async fn connections_are_not_shared_between_workers() {
    let server = Server::echoing_heads().await;
    let client = Client::new().unwrap();
    for _ in 0..2 {
        fetch(&client, &policy(&["127.0.0.1"]), get(&server.url())).await.unwrap();
    }
    pooled(&client, 2).await;
    assert_eq!(server.connections(), 2);
    let result = fetch(&client, &policy(&[]), get(&server.url())).await;
    assert!(matches!(result, Err(Error::HttpRequestDenied)), "an open connection is no way round the filter");
}

#[tokio::test]
async fn a_pool_asks_the_policy_about_the_address() {
    let server = Server::echoing_heads().await;
    let allowed = policy(&["127.0.0.1"]);
    let endpoint = Target::of(&mut get(&server.url())).unwrap().endpoint;
    let client = Client::new().unwrap();
    let connection = dial(&System::new(), &client.0.tls, &allowed, &endpoint, PATIENCE).await.unwrap();
    let pool = Arc::new(Pool::default());
    let refusing = policy(&[]);
    pool.put(Key::new(&refusing, &endpoint), connection);
    assert_eq!(pool.len(), 1);
    assert!(pool.take(&Key::new(&refusing, &endpoint), &refusing).is_none());
    assert!(pool.take(&Key::new(&allowed, &endpoint), &allowed).is_none());
    assert!(pool.take(&Key::new(&refusing, &endpoint), &allowed).is_some());
}

#[tokio::test]
async fn a_connection_closed_while_waiting_is_replaced() {
    let server = Server::start(|mut stream, _| async move {
        let head = read_head(&mut stream).await?.unwrap_or_default();
        respond(&mut stream, &head).await
    })
    .await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    for round in 1..=3 {
        // Sent at once, so that the client may or may not have noticed that the server has closed.
        fetch(&client, &policy, get(&server.url())).await.unwrap();
        assert_eq!(server.connections(), round);
    }
    // Once the exchange is over and nothing waits, the closed connection cannot come back.
    patiently(async {
        while policy.exchanges().available_permits() < 256 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    pooled(&client, 0).await;
    let post = Request::post(server.url()).body(full("once")).unwrap();
    assert!(fetch(&client, &policy, post).await.unwrap().starts_with("POST"));
}

/// Answers the first request of its first connection and drops that connection on the second; answers all others.
async fn forgetful() -> Server {
    Server::start(|mut stream, number| async move {
        while let Some(head) = read_head(&mut stream).await? {
            respond(&mut stream, &head).await?;
            if number == 0 {
                read_head(&mut stream).await?;
                return Ok(());
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_that_may_be_repeated_survives_a_closing_connection() {
    let server = forgetful().await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    fetch(&client, &policy, get(&server.url())).await.unwrap();
    pooled(&client, 1).await;
    let request = Request::get(server.url()).header("x-kept", "1").body(empty()).unwrap();
    let head = fetch(&client, &policy, request).await.unwrap();
    assert!(head.contains("x-kept: 1\r\n"), "{head}");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_request_that_may_not_be_repeated_is_not() {
    let server = forgetful().await;
    let client = Client::new().unwrap();
    let policy = policy(&["127.0.0.1"]);
    fetch(&client, &policy, get(&server.url())).await.unwrap();
    pooled(&client, 1).await;
    let post = Request::post(server.url()).body(full("once")).unwrap();
    let result = fetch(&client, &policy, post).await;
    assert!(matches!(result, Err(Error::ConnectionTerminated)), "{result:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn broken_responses_are_told_apart() {
    type Check = fn(&Error) -> bool;
    let cases: [(&'static [u8], Check); 5] = [
        (b"", |error| matches!(error, Error::ConnectionTerminated)),
        (b"HTTP/1.1 200 OK\r\ncontent-", |error| matches!(error, Error::ConnectionTerminated)),
        (b"SSH-2.0-OpenSSH\r\n\r\n", |error| matches!(error, Error::HttpProtocolError)),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", |error| {
            matches!(error, Error::HttpUpgradeFailed)
        }),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", |error| matches!(error, Error::HttpResponseIncomplete)),
    ];
    for (bytes, expected) in cases {
        let server = Server::start(move |mut stream, _| async move {
            read_head(&mut stream).await?;
            stream.write_all(bytes).await
        })
        .await;
        let request = get(&server.url());
        let client = Client::new().unwrap();
        let result = match patiently(client.send(&policy(&["127.0.0.1"]), request, None)).await {
            Ok((response, _)) => patiently(response.into_body().collect()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let error = result.unwrap_err();
        assert!(expected(&error), "{:?}: {error:?}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn an_oversized_response_header_is_refused() {
    let server = Server::start(|mut stream, _| async move {
        read_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-large: ").await?;
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        Ok(())
    })
    .await;
    let result = fetch(&Client::new().unwrap(), &policy(&["127.0.0.1"]), get(&server.url())).await;
    assert!(matches!(result, Err(Error::HttpResponseHeaderSectionSize(_))), "{result:?}");
}

#[tokio::test]
async fn connection_fields_of_a_response_stay_behind() {
    let server = Server::start(|mut stream, _| async move {
        read_head(&mut stream).await?;
        let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\nx-kept: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        stream.write_all(response.as_bytes()).await
    })
    .await;
    let client = Client::new().unwrap();
    let (response, _) = patiently(client.send(&policy(&["127.0.0.1"]), get(&server.url()), None)).await.unwrap();
    let names: Vec<_> = response.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-kept"]);
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn requests_in_flight_are_bounded_per_worker() {
    let server = Server::start(|mut stream, _| async move {
        read_head(&mut stream).await?;
        std::future::pending().await
    })
    .await;
    let client = Client::new().unwrap();
    let busy = policy(&["127.0.0.1"]);
    let taken = busy.exchanges().try_acquire_many_owned(256).unwrap();
    let result = fetch(&client, &busy, get(&server.url())).await;
    assert!(matches!(result, Err(Error::ConnectionLimitReached)), "{result:?}");
    assert_eq!(server.connections(), 0);
    drop(taken);
    let options = limits(|options| options.first_byte_timeout = SOON);
    let result = patiently(client.send(&busy, get(&server.url()), options)).await;
    assert!(matches!(result.err(), Some(Error::ConnectionReadTimeout)));
    assert_eq!(busy.exchanges().available_permits(), 256);
}
