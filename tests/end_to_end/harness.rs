//! A real `host` process on a port of the system's choosing, with a folder of its own, and a client for it.
//!
//! The client speaks HTTP/1.1 over a plain socket, so that a test can see when each piece of a body arrives, send what no
//! library would send, and leave in the middle of an answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a loaded machine: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Request bodies up to this length are written before the answer is read: sockets hold that much.
const IN_ONE_GO: usize = 64 << 10;

/// The two component flavours that every case runs in.
pub(crate) const FLAVOURS: [&str; 2] = ["p2", "p3"];

/// A fixture of `tests/guests`, built by `cargo xtask guests`.
pub(crate) fn guest(name: &str, flavour: &str) -> PathBuf {
    component(&format!("guest-{name}-{flavour}.wasm"))
}

/// A component among the built ones.
pub(crate) fn component(file: &str) -> PathBuf {
    let folder = std::env::var_os("HOST_GUESTS_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).unwrap_or_else(|| workspace().join("target"));
        target.join("wasm32-wasip2/release")
    });
    let path = folder.join(file);
    assert!(path.is_file(), "{} is missing; build it with `cargo xtask guests`", path.display());
    path
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// A running host. Dropping it kills the process.
pub(crate) struct Host {
    child: Child,
    pub(crate) port: u16,
    log: Arc<Mutex<String>>,
    folder: tempfile::TempDir,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// How a host ended that never was ready.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

/// The `host` program with a clean environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host"));
    command.env_remove("HOST_LOG").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

impl Host {
    /// Serves a binding file given as text.
    pub(crate) fn serve(config: &str) -> Host {
        Host::start(config, &[])
    }

    /// Serves a binding file with more arguments.
    pub(crate) fn start(config: &str, arguments: &[&str]) -> Host {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("wrangler.toml"), config).expect("the binding file");
        Host::launch(folder, "serve", arguments).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"))
    }

    /// Runs a command that serves what lies in a folder, until it is ready.
    pub(crate) fn launch(folder: tempfile::TempDir, serving: &str, arguments: &[&str]) -> Result<Host, Ended> {
        let mut host = Host::spawn(folder, serving, arguments);
        match host.wait_until_ready() {
            Some(()) => Ok(host),
            None => Err(Ended { code: host.wait().code(), log: host.log() }),
        }
    }

    /// Runs a command that serves what lies in a folder. It is not ready yet.
    pub(crate) fn spawn(folder: tempfile::TempDir, serving: &str, arguments: &[&str]) -> Host {
        let mut child = command()
            .current_dir(folder.path())
            .args([serving, "--port", "0", "--ip", "127.0.0.1", "--log", "debug,wasmtime=info,cranelift=info"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().expect("stdout");
        let stderr = child.stderr.take().expect("stderr");
        // From here on, dropping it ends the process.
        let mut host = Host { child, port: 0, log, folder, readers: Vec::new() };
        host.read(stdout);
        host.read(stderr);
        host
    }

    /// Adds what the process says to the log, a line at a time.
    fn read(&mut self, from: impl std::io::Read + Send + 'static) {
        let lines = self.log.clone();
        self.readers.push(std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("the log");
                log.push_str(&line);
                log.push('\n');
            }
        }));
    }

    /// Waits until the host says where it listens. None when it ends first; its log is whole then.
    pub(crate) fn wait_until_ready(&mut self) -> Option<()> {
        let start = Instant::now();
        loop {
            // Looked at first: what it says before it ends is read all the same.
            let ended = self.readers.iter().all(|reader| reader.is_finished());
            let log = self.log();
            if let Some(url) = log.lines().find_map(|line| line.trim().strip_prefix("Ready on http://")) {
                self.port = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
                return Some(());
            }
            if ended {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "the host was not ready:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The folder that it serves.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One worker with a component and more lines for its table.
    pub(crate) fn worker(component: &Path, lines: &str) -> Host {
        Host::serve(&format!("name = \"w\"\nmain = {:?}\n{lines}\n", component.display().to_string()))
    }

    /// What the host has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until the log holds `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < PATIENCE, "the log never had {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A GET to the worker `w`.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").read()
    }

    /// A POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes()).read()
    }

    /// Sends a request to the worker `w`.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Exchange {
        self.send_to("w.localhost", method, path, headers, body)
    }

    /// Sends a request to a host.
    pub(crate) fn send_to(
        &self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Exchange {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}:{}\r\nconnection: close\r\n", self.port);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).expect("the head is sent");
        if body.len() > IN_ONE_GO {
            // An answer may begin, and has to be read, before all of the request has been taken.
            let (mut stream, body) = (stream.try_clone().expect("another handle"), body.to_vec());
            std::thread::spawn(move || stream.write_all(&body));
        } else {
            // The host may answer and close before it has read a body that it does not want.
            let _ = stream.write_all(body);
        }
        Exchange { stream: BufReader::new(stream), bodiless: method == "HEAD" }
    }

    /// A bare connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the host did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the host's log\n{}", self.log());
        }
    }
}

/// A request that has been sent.
pub(crate) struct Exchange {
    stream: BufReader<TcpStream>,
    bodiless: bool,
}

/// The head of an answer, with its body still to come.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    body: Framing,
    stream: BufReader<TcpStream>,
}

enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
    Done,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as it should.
    pub(crate) complete: bool,
}

impl Exchange {
    /// Waits for the head of the answer.
    pub(crate) fn head(mut self) -> Head {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a status line");
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let body = match (find("transfer-encoding"), find("content-length")) {
            _ if self.bodiless || status == 204 || status == 304 => Framing::Done,
            (Some("chunked"), _) => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length.parse().expect("a length")),
            _ => Framing::UntilClose,
        };
        Head { status, headers, body, stream: self.stream }
    }

    /// Waits for the whole answer.
    pub(crate) fn read(self) -> Reply {
        let mut head = self.head();
        let mut body = Vec::new();
        let mut complete = true;
        loop {
            match head.piece() {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => break,
                Err(_) => {
                    complete = false;
                    break;
                }
            }
        }
        Reply { status: head.status, headers: head.headers, body, complete }
    }
}

impl Head {
    /// The next piece of the body as it arrives; None at its end; an error when it breaks off.
    pub(crate) fn piece(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        match &mut self.body {
            Framing::Done => Ok(None),
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let mut piece = vec![0; (*left).min(64 << 10)];
                let read = self.stream.read(&mut piece)?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read;
                piece.truncate(read);
                Ok(Some(piece))
            }
            Framing::UntilClose => {
                let mut piece = vec![0; 64 << 10];
                let read = self.stream.read(&mut piece)?;
                piece.truncate(read);
                Ok((read > 0).then_some(piece))
            }
            Framing::Chunked => {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16)
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
                let mut piece = vec![0; size + 2];
                self.stream.read_exact(&mut piece)?;
                piece.truncate(size);
                if size == 0 {
                    self.body = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(piece))
            }
        }
    }

    /// One header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Reply {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// One header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}
