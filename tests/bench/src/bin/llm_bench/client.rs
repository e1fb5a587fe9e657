//! One connection to a server: JSON there, and JSON or an event stream back.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What a failed answer may say in the error.
const QUOTED: usize = 500;

pub(crate) struct Client {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the host and port of `url`.
    pub(crate) async fn connect(url: &Uri) -> Result<Self> {
        let authority = url.authority().context("the address needs a host and a port")?.as_str().to_owned();
        let stream = TcpStream::connect(&authority).await.with_context(|| format!("cannot connect to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // A connection that breaks shows as the failed request of its sender.
            let _ = connection.await;
        });
        Ok(Self { authority, sender })
    }

    async fn post(&mut self, path: &str, body: &Value) -> Result<Incoming> {
        let request = Request::post(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.to_string().into()))?;
        self.sender.ready().await.context("the server closed a connection")?;
        let response = self.sender.send_request(request).await.context("a request failed")?;
        let status = response.status();
        if !status.is_success() {
            let said = response.into_body().collect().await.context("an answer broke off")?.to_bytes();
            let said = String::from_utf8_lossy(&said[..said.len().min(QUOTED)]).into_owned();
            bail!("the server answered {status}: {said}");
        }
        Ok(response.into_body())
    }

    /// A whole answer.
    pub(crate) async fn json(&mut self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.post(path, body).await?.collect().await.context("an answer broke off")?.to_bytes();
        serde_json::from_slice(&answer).context("the server answered with something that is not JSON")
    }

    /// A streamed answer, read to its end.
    pub(crate) async fn stream(&mut self, path: &str, body: &Value) -> Result<Streamed> {
        let start = Instant::now();
        let mut answer = self.post(path, body).await?;
        let (mut lines, mut first, mut usage) = (BytesMut::new(), None, None);
        while let Some(frame) = answer.frame().await {
            let Ok(piece) = frame.context("an answer broke off")?.into_data() else { continue };
            lines.extend_from_slice(&piece);
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line = lines.split_to(end);
                lines.advance(1);
                let Some(event) = event(&line)? else { continue };
                if first.is_none() && has_text(&event) {
                    first = Some(start.elapsed().as_secs_f64());
                }
                if event["usage"].is_object() {
                    usage = Some(Usage::of(&event)?);
                }
            }
        }
        let usage = usage.context("a stream ended without telling its usage")?;
        Ok(Streamed { first: first.context("a stream ended without any text")?, usage })
    }
}

/// What a streamed answer cost.
pub(crate) struct Streamed {
    /// Seconds to the first text.
    pub(crate) first: f64,
    pub(crate) usage: Usage,
}

/// Both servers count alike, and tell it at the end.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
}

impl Usage {
    pub(crate) fn of(answer: &Value) -> Result<Self> {
        let count = |name: &str| answer["usage"][name].as_u64().with_context(|| format!("the answer has no {name}"));
        Ok(Self { prompt: count("prompt_tokens")?, completion: count("completion_tokens")? })
    }
}

/// The JSON of a `data:` line; none for other lines and for the one that says that there are no more.
fn event(line: &[u8]) -> Result<Option<Value>> {
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii).filter(|data| *data != b"[DONE]") else {
        return Ok(None);
    };
    let event: Value = serde_json::from_slice(data).context("an event is not JSON")?;
    if !event["error"].is_null() || !event["errors"].is_null() {
        bail!("a stream failed: {event}");
    }
    Ok(Some(event))
}

/// Ours has the text in `response`, llama.cpp in the first choice.
fn has_text(event: &Value) -> bool {
    [&event["response"], &event["choices"][0]["text"]].iter().any(|text| text.as_str().is_some_and(|t| !t.is_empty()))
}
