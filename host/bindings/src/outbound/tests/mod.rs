//! Servers on loopback and a network that answers names as the test says.

#![allow(clippy::unwrap_used)]

mod addresses;
mod exchanges;
mod rules;
mod tls;

use super::*;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Long enough that only a fault reaches it.
const PATIENCE: Duration = Duration::from_secs(30);
/// A public address, for names that tests resolve; nothing is ever sent to it.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the test waits for something that does not come")
}

fn policy(rules: &[&str]) -> Policy {
    Policy::new(true, &rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn empty() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: impl Into<Bytes>) -> WasiBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn get(uri: &str) -> Request<WasiBody> {
    Request::get(uri).body(empty()).unwrap()
}

async fn text(response: Response<WasiBody>) -> String {
    let bytes = patiently(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends and reads the whole response.
async fn fetch(client: &Client, policy: &Policy, request: Request<WasiBody>) -> Result<String, Error> {
    let (response, _transmission) = patiently(client.send(policy, request, None)).await?;
    Ok(text(response).await)
}

/// Names answered from a list, one answer per lookup, and addresses that lead to listeners on loopback.
#[derive(Default)]
struct Fake(Arc<Script>);

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    routes: Mutex<HashMap<IpAddr, Route>>,
    lookups: AtomicUsize,
    dialled: Mutex<Vec<SocketAddr>>,
}

#[derive(Clone, Copy)]
enum Route {
    To(SocketAddr),
    Nowhere,
}

impl Script {
    fn answer(&self, addresses: &[IpAddr]) {
        self.answers.lock().unwrap().push_back(addresses.to_vec());
    }

    fn route(&self, from: IpAddr, to: Route) {
        self.routes.lock().unwrap().insert(from, to);
    }

    fn dialled(&self) -> Vec<SocketAddr> {
        self.dialled.lock().unwrap().clone()
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl Network for Fake {
    fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            self.0.lookups.fetch_add(1, Ordering::SeqCst);
            let answer = self.0.answers.lock().unwrap().pop_front();
            match answer {
                Some(addresses) => Ok(addresses),
                None => std::future::pending().await,
            }
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            self.0.dialled.lock().unwrap().push(address);
            let route = self.0.routes.lock().unwrap().get(&address.ip()).copied();
            match route {
                Some(Route::To(listener)) => TcpStream::connect(listener).await,
                Some(Route::Nowhere) => std::future::pending().await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

fn scripted() -> (Client, Arc<Script>) {
    let fake = Fake::default();
    let script = Arc::clone(&fake.0);
    (Client::over(fake, &[]).unwrap(), script)
}

/// A listener that counts its connections and answers each with `serve`.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start<F, S>(serve: S) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
        S: Fn(TcpStream, usize) -> F + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, number));
            }
        });
        Self { address, connections }
    }

    /// Answers every request with its own head, and keeps connections open.
    async fn echoing_heads() -> Self {
        Self::start(|mut stream, _| async move {
            while let Some(head) = read_head(&mut stream).await? {
                respond(&mut stream, &head).await?;
            }
            Ok(())
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads up to the empty line; `None` where the peer has closed the connection.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8(head).unwrap()))
}

async fn respond(stream: &mut TcpStream, body: &str) -> io::Result<()> {
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(response.as_bytes()).await
}
