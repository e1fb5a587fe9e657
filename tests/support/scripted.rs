//! A server on loopback that does what a test says, well or badly. It stands in for a model's server, a provider, or
//! anything else that a host calls; tests take it in by its path.

#![allow(dead_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that a script writes to.
pub(crate) struct Line(pub(crate) TcpStream);

impl Line {
    /// Writes as it is. Whether anybody still reads.
    pub(crate) fn raw(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush()).is_ok()
    }

    /// A whole answer with a body.
    pub(crate) fn answer(&mut self, status: u16, kind: &str, headers: &str, body: &str) {
        let length = body.len();
        self.raw(&format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ));
    }

    /// A whole answer of JSON.
    pub(crate) fn json(&mut self, status: u16, body: &str) {
        self.answer(status, "application/json", "", body);
    }

    /// The head of an event stream.
    pub(crate) fn begin_events(&mut self) {
        self.raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// One event.
    pub(crate) fn event(&mut self, data: &str) -> bool {
        let text = format!("data: {data}\n\n");
        self.raw(&format!("{:x}\r\n{text}\r\n", text.len()))
    }

    /// The end of an event stream.
    pub(crate) fn end_events(&mut self) {
        self.event("[DONE]");
        self.raw("0\r\n\r\n");
    }

    /// Waits until the other side has closed the connection.
    pub(crate) fn wait_for_close(&mut self) {
        let _ = self.0.set_read_timeout(Some(PATIENCE));
        while matches!(self.0.read(&mut [0; 256]), Ok(read) if read > 0) {}
    }
}

/// A running server. Dropping it closes its socket; connections end with their scripts.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

impl Scripted {
    /// A server that answers each request with `script`, which is told how many came before. It closes the connection
    /// after a script that says so.
    pub(crate) fn start(script: impl Fn(usize, &Seen, &mut Line) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (seen, connections): (Arc<Mutex<Vec<Seen>>>, Arc<AtomicUsize>) = Default::default();
        let over = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let acceptor = {
            let (seen, connections, over) = (seen.clone(), connections.clone(), over.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { break };
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (seen, script, over) = (seen.clone(), script.clone(), over.clone());
                    std::thread::spawn(move || serve(stream, &seen, &over, &*script));
                }
            })
        };
        Self { address, seen, connections, over, acceptor: Some(acceptor) }
    }

    /// Where it is, with a base path.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the list").clone()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    pub(crate) fn wait_for(&self, requests: usize) {
        let start = Instant::now();
        while self.seen().len() < requests {
            assert!(start.elapsed() < PATIENCE, "{} of {requests} requests came", self.seen().len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    over: &AtomicBool,
    script: &(impl Fn(usize, &Seen, &mut Line) -> bool + Send + Sync),
) {
    let mut reader = BufReader::new(stream.try_clone().expect("another handle"));
    let mut line = Line(stream);
    while let Some(request) = read(&mut reader) {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let before = {
            let mut seen = seen.lock().expect("the list");
            seen.push(request.clone());
            seen.len() - 1
        };
        if !script(before, &request, &mut line) {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut parts = first.split(' ').map(str::to_owned);
    let (method, path) = (parts.next()?, parts.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
