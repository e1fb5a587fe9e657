//! The framing of `text/event-stream` (WHATWG HTML, section 9.2.6), one piece of bytes at a time.
//!
//! Pieces end anywhere, also inside a line break or a UTF-8 sequence, so bytes are kept until their line is whole.

use crate::{Error, Result};

/// The most one event may hold, in bytes. What comes from a stream is bounded before it is kept.
const MAX_EVENT: usize = 16 << 20;

/// One event: what its `data` lines hold and the name that an `event` line gave it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// Cuts bytes into events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// The last byte was a carriage return, whose line feed may still come.
    after_return: bool,
    /// The first line has been seen: a byte order mark may stand before it only.
    started: bool,
}

impl Parser {
    /// Takes the next bytes and appends the events they complete.
    ///
    /// # Errors
    /// When an event grows beyond [`MAX_EVENT`] or is not UTF-8.
    pub(super) fn feed(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<()> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n' || byte == b'\r') {
            let mut part = part;
            if self.after_return {
                self.after_return = false;
                if part == b"\n" {
                    continue;
                }
            }
            let ended = match part.split_last() {
                Some((&end @ (b'\n' | b'\r'), rest)) => {
                    self.after_return = end == b'\r';
                    part = rest;
                    true
                }
                _ => false,
            };
            if self.line.len() + self.event.data.len() + part.len() > MAX_EVENT {
                return Err(Error::EventStream(format!("an event is larger than {MAX_EVENT} bytes")));
            }
            self.line.extend_from_slice(part);
            if ended {
                let line = std::mem::take(&mut self.line);
                events.extend(self.end_line(&line)?);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Event>> {
        let line = std::str::from_utf8(line).map_err(|error| Error::EventStream(format!("not UTF-8: {error}")))?;
        let line = if self.started { line } else { line.trim_start_matches('\u{feff}') };
        self.started = true;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.name),
            // A comment, an `id` or a `retry`: of no use to a reader that never reconnects.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut events).unwrap();
        }
        events
    }

    fn data(text: &str) -> Event {
        Event { name: String::new(), data: text.into() }
    }

    const STREAM: &str = "\u{feff}: hello\r\ndata: {\"a\":\"é\"}\r\n\r\nevent: error\rdata:x\rdata:  y\r\rid: 7\ndata\n\n\ndata: [DONE]\n\n";

    fn expected() -> Vec<Event> {
        vec![data("{\"a\":\"é\"}"), Event { name: "error".into(), data: "x\n y".into() }, data(""), data("[DONE]")]
    }

    #[test]
    fn every_line_ending_field_and_comment_is_read() {
        assert_eq!(parse(&[STREAM.as_bytes()]), expected());
    }

    #[test]
    fn the_cut_between_two_pieces_never_matters() {
        let bytes = STREAM.as_bytes();
        for cut in 0..=bytes.len() {
            assert_eq!(parse(&[&bytes[..cut], &bytes[cut..]]), expected(), "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&single), expected());
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_an_event() {
        assert_eq!(parse(&[b"data: a\n\ndata: b\n"]), [data("a")]);
        assert_eq!(parse(&[b"event: ping\n\n"]), []);
    }

    #[test]
    fn an_event_without_end_is_cut_off() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let mut events = Vec::new();
        let outcome = (0..17).try_for_each(|_| parser.feed(&piece, &mut events));
        assert!(matches!(outcome, Err(Error::EventStream(_))));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_an_error() {
        assert!(Parser::default().feed(b"data: \xff\n\n", &mut Vec::new()).is_err());
    }
}
