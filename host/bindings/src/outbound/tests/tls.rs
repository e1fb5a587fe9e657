//! Requests over TLS, against certificates made for the test.

use super::*;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::convert::Infallible;
use tokio_rustls::TlsAcceptor;

/// An authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A TLS server with a certificate for `name`, which answers with the version, the host it was asked for and the
    /// path.
    async fn serve(&self, name: &str, protocols: &[&str]) -> Server {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Server::start(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let stream = acceptor.accept(stream).await?;
                hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(describe))
                    .await
                    .map_err(io::Error::other)
            }
        })
        .await
    }
}

async fn describe(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = match request.headers().get("host") {
        Some(host) => host.to_str().unwrap().to_owned(),
        None => request.uri().authority().unwrap().to_string(),
    };
    let (version, path) = (request.version(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let description = format!("{version:?} {host} {path} {}", String::from_utf8_lossy(&body));
    Ok(Response::new(Full::new(description.into())))
}

fn trusting(authority: &Authority, server: &Server) -> (Client, Arc<Script>) {
    let fake = Fake::default();
    let script = Arc::clone(&fake.0);
    script.route(PUBLIC, Route::To(server.address));
    (Client::over(fake, authority.pem.as_bytes()).unwrap(), script)
}

#[tokio::test]
async fn http2_and_http1_are_agreed_on_and_used_again() {
    let authority = Authority::new();
    for (offered, version) in
        [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"][..], "HTTP/1.1"), (&[][..], "HTTP/1.1")]
    {
        let server = authority.serve("secure.example", offered).await;
        let (client, script) = trusting(&authority, &server);
        let policy = policy(&[]);
        script.answer(&[PUBLIC]);
        for path in ["/a", "/b"] {
            let request = Request::post(format!("https://secure.example{path}")).body(full("body")).unwrap();
            let answer = fetch(&client, &policy, request).await.unwrap();
            assert_eq!(answer, format!("{version} secure.example {path} body"));
            patiently(async {
                while client.0.pool.len() == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
        assert_eq!((server.connections(), script.lookups()), (1, 1));
        assert_eq!(script.dialled(), [SocketAddr::new(PUBLIC, 443)]);
    }
}

#[tokio::test]
async fn a_certificate_must_be_for_the_name() {
    let authority = Authority::new();
    let server = authority.serve("other.example", &["http/1.1"]).await;
    let (client, script) = trusting(&authority, &server);
    script.answer(&[PUBLIC]);
    let result = fetch(&client, &policy(&[]), get("https://secure.example/")).await;
    assert!(matches!(result, Err(Error::TlsCertificateError)), "{result:?}");
}

#[tokio::test]
async fn a_certificate_must_be_of_a_known_authority() {
    let server = Authority::new().serve("secure.example", &["http/1.1"]).await;
    let (client, script) = trusting(&Authority::new(), &server);
    script.answer(&[PUBLIC]);
    let result = fetch(&client, &policy(&[]), get("https://secure.example/")).await;
    assert!(matches!(result, Err(Error::TlsCertificateError)), "{result:?}");
}

#[tokio::test]
async fn an_address_can_be_certified() {
    let authority = Authority::new();
    let server = authority.serve("127.0.0.1", &["http/1.1"]).await;
    let client = Client::with_roots(authority.pem.as_bytes()).unwrap();
    let uri = format!("https://{}/", server.address);
    let answer = fetch(&client, &policy(&["127.0.0.1"]), get(&uri)).await.unwrap();
    assert_eq!(answer, format!("HTTP/1.1 {} / ", server.address));
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart() {
    let server = Server::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(())
    })
    .await;
    let (client, script) = trusting(&Authority::new(), &server);
    script.answer(&[PUBLIC]);
    let result = fetch(&client, &policy(&[]), get("https://plain.example/")).await;
    assert!(matches!(result, Err(Error::TlsProtocolError)), "{result:?}");
}

#[test]
fn broken_roots_are_refused() {
    let text = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(Client::with_roots(text.as_bytes()), Err(ClientError::Pem(_))));
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Client::with_roots(no_certificate.as_bytes()), Err(ClientError::Tls(_))));
}
