//! Server-sent events out of a body that comes in pieces (WHATWG HTML, section 9.2.6).

use bytes::{Buf as _, BytesMut};

/// The longest event that is read, in bytes. A tool's whole arguments may stand in one.
pub const LONGEST_EVENT: usize = 1 << 20;

/// Reads events. Bytes go in as they come, and the data of events comes out.
#[derive(Debug, Default)]
pub struct Events {
    buffer: BytesMut,
    /// How much of the buffer has no line end in it.
    searched: usize,
    data: String,
    has_data: bool,
    begun: bool,
}

/// An event that is longer than [`LONGEST_EVENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {LONGEST_EVENT} bytes")]
pub struct TooLong;

impl Events {
    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next event that is whole.
    ///
    /// # Errors
    /// When an event is too long.
    pub fn read(&mut self) -> Result<Option<String>, TooLong> {
        while let Some(line) = self.line() {
            if line.is_empty() {
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(std::mem::take(&mut self.data)));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            // A line that begins with a colon is a comment; names and ids of events say nothing here.
            if field == "data" {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
            }
            if self.data.len() > LONGEST_EVENT {
                return Err(TooLong);
            }
        }
        if self.buffer.len() > LONGEST_EVENT { Err(TooLong) } else { Ok(None) }
    }

    /// The next whole line, without its end. What is no UTF-8 is replaced, as the standard has it.
    fn line(&mut self) -> Option<String> {
        let found = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(at) = found.map(|at| at + self.searched) else {
            self.searched = self.buffer.len();
            return None;
        };
        let ending = match &self.buffer[at..] {
            [b'\r', b'\n', ..] => 2,
            // Whether a line feed follows is not known yet.
            [b'\r'] => {
                self.searched = at;
                return None;
            }
            _ => 1,
        };
        self.searched = 0;
        let line = self.buffer.split_to(at);
        self.buffer.advance(ending);
        let line = String::from_utf8_lossy(&line).into_owned();
        // A byte order mark may stand before the first line.
        let first = !std::mem::replace(&mut self.begun, true);
        Some(if first { line.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(line) } else { line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut read) = (Events::default(), Vec::new());
        for piece in pieces {
            events.push(piece);
            while let Some(data) = events.read().unwrap() {
                read.push(data);
            }
        }
        read
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = "\u{feff}: hello\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\nid: 3\n\ndata\n\ndata: \u{e9}\r\rdata: cut";
        let whole = all(&[text.as_bytes()]);
        assert_eq!(whole, ["{\"a\":1}", "two\nlines", "", "\u{e9}"]);
        for size in 1..text.len() {
            assert_eq!(all(&text.as_bytes().chunks(size).collect::<Vec<_>>()), whole, "{size}");
        }
    }

    #[test]
    fn what_never_ends_is_too_long() {
        for piece in [&[b'x'; 4096][..], b"data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"] {
            let mut events = Events::default();
            let ended = (0..1 << 20).any(|_| {
                events.push(piece);
                events.read().is_err()
            });
            assert!(ended);
        }
        assert_eq!(all(&[b"data: \xff\n\n"]), ["\u{fffd}"]);
    }
}
