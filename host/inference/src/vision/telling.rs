//! An answer about a picture, told while it is written.
//!
//! The model's thread pushes pieces into a channel, which holds at most one answer, so who reads slowly holds up nobody.
//! What the work comes to is told by its future at the desk, which the stream keeps: dropping the stream drops it, and the
//! work sees that nobody waits any more.

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::AiError;
use crate::backend::{FinishReason, GenerateEvent, GenerateStream, Usage};

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    finish: FinishReason,
    prompt: usize,
    completion: usize,
}

impl Written {
    /// After `completion` tokens that follow `prompt`, by itself if `ended`.
    pub(super) fn new(prompt: usize, completion: usize, ended: bool) -> Written {
        Written { finish: if ended { FinishReason::Stop } else { FinishReason::Length }, prompt, completion }
    }
}

/// Takes the pieces of one answer and leaves out blanks before and behind it.
pub(super) struct Telling {
    pieces: UnboundedSender<String>,
    begun: bool,
    /// What is told only if more follows.
    blank: String,
}

impl Telling {
    pub(super) fn new(pieces: UnboundedSender<String>) -> Telling {
        Telling { pieces, begun: false, blank: String::new() }
    }

    /// More of the answer.
    pub(super) fn push(&mut self, piece: &str) {
        let piece = if self.begun { piece } else { piece.trim_start() };
        let text = piece.trim_end();
        if !text.is_empty() {
            self.begun = true;
            // Whoever reads may have gone, which the work's ticket tells it.
            let _ = self.pieces.send(std::mem::take(&mut self.blank) + text);
        }
        self.blank.push_str(&piece[text.len()..]);
    }
}

/// Tells a text of which only versions are known, each the last one with more behind it. Decoders that tidy up may
/// change the last two words once another follows ("can n '" becomes "cann't"), so these are told later.
#[derive(Default)]
pub(super) struct Growing {
    told: String,
}

impl Growing {
    /// The text so far.
    pub(super) fn push(&mut self, text: &str, telling: &mut Telling) {
        let blanks = text.rmatch_indices(char::is_whitespace);
        let settled = blanks.map(|(at, _)| at).nth(1).unwrap_or(0);
        if let Some(more) = text[..settled].strip_prefix(&self.told) {
            telling.push(more);
            self.told.push_str(more);
        }
    }

    /// The whole text. Where that is another than was begun, what is told is what follows their common beginning.
    pub(super) fn finish(self, text: &str, telling: &mut Telling) {
        let same = self.told.char_indices().zip(text.chars()).take_while(|((_, a), b)| a == b);
        let end = same.last().map_or(0, |((at, a), _)| at + a.len_utf8());
        telling.push(&text[end..]);
    }
}

/// The events of an answer that `work` writes and whose `pieces` come meanwhile.
///
/// # Errors
/// What `work` fails with before its first piece.
pub(super) async fn events(
    work: BoxFuture<'static, Result<Written, AiError>>,
    mut pieces: UnboundedReceiver<String>,
) -> Result<GenerateStream, AiError> {
    let Some(first) = pieces.recv().await else {
        // The work is over or was never begun.
        let done = done(work.await?);
        return Ok(stream::iter([done]).boxed());
    };
    let rest = stream::unfold(Some((work, pieces)), |state| async move {
        let (work, mut pieces) = state?;
        match pieces.recv().await {
            Some(piece) => Some((GenerateEvent::Text(piece), Some((work, pieces)))),
            None => Some((work.await.map_or_else(GenerateEvent::Failed, done), None)),
        }
    });
    Ok(stream::iter([GenerateEvent::Text(first)]).chain(rest).boxed())
}

fn done(Written { finish, prompt, completion }: Written) -> GenerateEvent {
    let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
    GenerateEvent::Done { finish, usage }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures::FutureExt;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::desk::Desk;

    fn told(write: impl FnOnce(&mut Telling)) -> Vec<String> {
        let (sender, mut pieces) = unbounded_channel();
        write(&mut Telling::new(sender));
        std::iter::from_fn(|| pieces.try_recv().ok()).collect()
    }

    #[test]
    fn blanks_around_an_answer_are_left_out() {
        let pieces = told(|telling| [" ", " a", " ", "cat ", "\n", "sits", " \n"].iter().for_each(|p| telling.push(p)));
        assert_eq!(pieces, ["a", " cat", " \nsits"]);
        assert!(told(|telling| telling.push(" \n")).is_empty());
    }

    #[test]
    fn a_growing_text_is_told_once_it_is_settled() {
        let versions = ["a", "a can", "a can n", "a can n '", "a cann't", "a cann't be", "a cann't be é"];
        let pieces = told(|telling| {
            let mut growing = Growing::default();
            versions.iter().for_each(|version| growing.push(version, telling));
            growing.finish("a cann't be é.", telling);
        });
        assert_eq!(pieces, ["a", " can", "n't", " be é."]);
        let changed = told(|telling| {
            let mut growing = Growing::default();
            growing.push("one two three four", telling);
            growing.finish("one 2", telling);
        });
        assert_eq!(changed, ["one two", "2"]);
    }

    #[tokio::test]
    async fn faults_before_the_first_piece_are_answered_and_later_ones_told() {
        let failing = || async { Err(AiError::timeout()) }.boxed();
        let (sender, pieces) = unbounded_channel::<String>();
        drop(sender);
        assert_eq!(events(failing(), pieces).await.err(), Some(AiError::timeout()));
        let (sender, pieces) = unbounded_channel();
        sender.send("a".to_owned()).unwrap();
        drop(sender);
        let told: Vec<_> = events(failing(), pieces).await.unwrap().collect().await;
        assert_eq!(told, [GenerateEvent::Text("a".into()), GenerateEvent::Failed(AiError::timeout())]);
    }

    #[tokio::test]
    async fn work_that_nobody_reads_any_more_ends() {
        let desk = Desk::open("test", NonZeroUsize::MIN, ()).unwrap();
        let (sender, pieces) = unbounded_channel();
        let (ended, end) = std::sync::mpsc::channel();
        let work = desk.run("a".into(), None, move |(), ticket| {
            let mut telling = Telling::new(sender);
            loop {
                if let Err(error) = ticket.check() {
                    ended.send(error.clone()).unwrap();
                    return Err(error);
                }
                telling.push("word ");
                std::thread::yield_now();
            }
        });
        let mut told = events(work, pieces).await.unwrap();
        assert_eq!(told.next().await, Some(GenerateEvent::Text("word".into())));
        assert_eq!(told.next().await, Some(GenerateEvent::Text(" word".into())));
        assert!(end.try_recv().is_err(), "somebody reads");
        drop(told);
        assert_eq!(end.recv(), Ok(AiError::aborted()));
    }
}
