//! `workers:js/host`: how a script's runtime answers the request that it handles.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use wasmtime::component::{HasData, Linker};
use wasmtime_wasi_http::WasiBody;

use super::exchange::Answer;
use super::pipe::{Flow, pipe};
use crate::guest_log::Level;
use crate::{Extension, State};

/// Bytes of one call of the log: what a script says in one breath and a person may read.
const LONGEST_LOG: usize = 64 << 10;

pub(super) mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/deps/workers-js@0.1.0",
        world: "workers:js/worker",
        imports: { default: trappable },
        exports: { default: async },
    });
}

use generated::workers::js::host as wit;

/// The data that the imports work on.
struct Store<X>(std::marker::PhantomData<X>);

impl<X: Extension> HasData for Store<X> {
    type Data<'a> = &'a mut State<X>;
}

pub(super) fn link<X: Extension>(linker: &mut Linker<State<X>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store<X>>(linker, |state| state)
}

impl<X: Extension> wit::Host for State<X> {
    fn respond(&mut self, status: u16, headers: Vec<u8>, body: Vec<u8>, more: bool) -> wasmtime::Result<()> {
        let Some(head) = self.head(status, &headers) else { return Ok(()) };
        let exchange = self.exchange();
        let body = if more {
            let (writer, reader) = pipe();
            // The first piece goes out with the head.
            writer.write(Bytes::from(body));
            exchange.outgoing = Some(writer);
            reader.boxed_unsync()
        } else {
            whole(body)
        };
        exchange.give(Answer::Response(head.map(|()| body)));
        Ok(())
    }

    fn respond_held(&mut self, status: u16, headers: Vec<u8>, held: u32) -> wasmtime::Result<bool> {
        if !self.exchange().unanswered() {
            return Ok(false);
        }
        let Some(body) = self.exchange().held.take(held) else { return Ok(false) };
        tracing::debug!(held, "a body is handed on unread");
        if let Some(head) = self.head(status, &headers) {
            self.exchange().give(Answer::Response(head.map(|()| body)));
        }
        Ok(true)
    }

    fn body_write(&mut self, piece: Vec<u8>) -> wasmtime::Result<wit::Flow> {
        let flow = self.exchange().outgoing.as_ref().map_or(Flow::Closed, |body| body.write(Bytes::from(piece)));
        Ok(match flow {
            Flow::More => wit::Flow::More,
            Flow::Wait => wit::Flow::Wait,
            Flow::Closed => wit::Flow::Closed,
        })
    }

    fn body_end(&mut self) -> wasmtime::Result<()> {
        if let Some(body) = self.exchange().outgoing.take() {
            body.finish();
        }
        Ok(())
    }

    fn body_abort(&mut self) -> wasmtime::Result<()> {
        self.exchange().outgoing = None;
        Ok(())
    }

    fn fail(&mut self) -> wasmtime::Result<()> {
        self.exchange().give(Answer::Threw);
        Ok(())
    }

    fn log(&mut self, level: u8, text: Vec<u8>) -> wasmtime::Result<()> {
        let level = match level {
            0 => Level::Debug,
            1 => Level::Info,
            2 => Level::Warn,
            _ => Level::Error,
        };
        let text = String::from_utf8_lossy(&text[..text.len().min(LONGEST_LOG)]);
        match &self.exchange().map_stack {
            Some(map_stack) => {
                let mapped = map_stack(&text);
                self.console().say(level, &mapped);
            }
            None => self.console().say(level, &text),
        }
        Ok(())
    }
}

impl<X: Extension> State<X> {
    /// The head of an answer, or none if HTTP has no such head; the script then is taken to have thrown.
    fn head(&mut self, status: u16, lines: &[u8]) -> Option<Response<()>> {
        match head(status, lines) {
            Ok(head) => Some(head),
            Err(fault) => {
                self.console().say(Level::Error, &format!("TypeError: the response cannot be sent: {fault}"));
                self.exchange().give(Answer::Threw);
                None
            }
        }
    }
}

fn whole(body: Vec<u8>) -> WasiBody {
    Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
}

fn head(status: u16, lines: &[u8]) -> Result<Response<()>, String> {
    let mut response = Response::new(());
    *response.status_mut() = match StatusCode::from_u16(status) {
        Ok(status) if status.as_u16() >= 200 => status,
        _ => return Err(format!("its status {status} ends no exchange")),
    };
    let lines = std::str::from_utf8(lines).map_err(|_| "its headers are no text".to_owned())?;
    for line in lines.split('\n').filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once('\0').ok_or_else(|| "a header has no value".to_owned())?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header"))?;
        let value = header_value(value).ok_or_else(|| format!("the value of {name} cannot be sent"))?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// Each character of a header's text is one byte.
fn header_value(text: &str) -> Option<HeaderValue> {
    if text.is_ascii() {
        return HeaderValue::from_str(text).ok();
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_what_http_can_send() {
        let good = head(201, "x-a\0b\nset-cookie\0c=1\nset-cookie\0d=2\nx-l\0\u{e9}\n".as_bytes()).unwrap();
        assert_eq!(good.status(), 201);
        assert_eq!(good.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(good.headers()["x-l"].as_bytes(), b"\xe9");
        for (status, lines) in [(99, ""), (101, ""), (1000, ""), (200, "a b\0c\n"), (200, "a\0b\rc\n"), (200, "a\n")] {
            assert!(head(status, lines.as_bytes()).is_err(), "{status} {lines:?}");
        }
        assert!(head(200, "x\0\u{100}\n".as_bytes()).is_err());
        assert!(head(200, b"\xff\0\n").is_err());
    }
}
