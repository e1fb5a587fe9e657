//! The end of what a program printed: where it says why it failed.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use crate::text;

/// How much of a program's output is kept.
const KEPT: usize = 64 * 1024;
/// How much of it is shown.
const SHOWN: usize = 4 * 1024;

/// The last part of a stream, which a thread of its own reads to the end so that the program never waits for a reader.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Follows a stream. The receiver learns when it has ended.
    pub(crate) fn follow(mut stream: impl Read + Send + 'static) -> (Tail, mpsc::Receiver<()>) {
        let tail = Tail::default();
        let (ended, end) = mpsc::channel::<()>();
        let kept = tail.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 8 * 1024];
            loop {
                match stream.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => kept.push(piece.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            drop(ended);
        });
        (tail, end)
    }

    fn push(&self, piece: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(piece);
        if let Some(surplus) = kept.len().checked_sub(KEPT) {
            kept.drain(..surplus);
        }
    }

    /// What was kept.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The last lines for a person: without colours, and not too many.
    pub(crate) fn shown(&self) -> String {
        let plain = without_colours(&self.text());
        let plain = plain.trim();
        let from = plain.floor_char_boundary(plain.len().saturating_sub(SHOWN));
        // A line that was cut says little.
        let whole = if from == 0 { plain } else { plain[from..].split_once('\n').map_or("", |(_, rest)| rest) };
        text::lines(whole, SHOWN, "")
    }
}

/// Takes away escape sequences that colour text (ECMA-48, control sequences).
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        let end = after.find(|c: char| !matches!(c, '0'..='9' | ';'));
        rest = match end.map(|end| after.split_at(end)) {
            Some((_, after)) => after.strip_prefix('m').unwrap_or(after),
            None => "",
        };
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_beginning_forgotten() {
        let text = (0..100_000).map(|n| format!("line {n}\n")).collect::<String>();
        let (tail, end) = Tail::follow(std::io::Cursor::new(text));
        assert!(end.recv().is_err(), "the stream has ended");
        assert_eq!(tail.text().len(), KEPT);
        let shown = tail.shown();
        assert!(shown.starts_with("line ") && shown.ends_with("line 99999"), "{shown}");
        assert!(shown.len() <= SHOWN);
    }

    #[test]
    fn colours_are_taken_away() {
        assert_eq!(without_colours("\x1b[31;1mred\x1b[0m and \x1b[2Kplain\x1b[3"), "red and Kplain");
    }
}
