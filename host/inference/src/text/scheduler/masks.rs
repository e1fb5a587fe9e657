//! Which tokens grammars allow next, found while the model computes what it would like to say next.
//!
//! A mask depends on the tokens so far alone, and so does a forward pass, so neither has to wait for the other: before a
//! step the grammars of the sequences that will pick a token go to a thread of their own, and come back with their masks
//! when the logits are there. The thread starts with the first grammar. Where it cannot, a mask is computed when a token
//! is picked.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::text::grammar::Grammar;

/// What goes to the thread, and what comes back from it.
type Ends = (Sender<Vec<Grammar>>, Receiver<Vec<Grammar>>);

/// The thread that computes masks. It ends with this.
#[derive(Default)]
pub(super) struct Masks {
    thread: Option<Ends>,
}

impl Masks {
    /// Prepares the next masks of `grammars` while `work` runs. Gives what that gave, and the grammars in the same order;
    /// none if they were lost with the thread.
    pub(super) fn beside<T>(&mut self, grammars: Vec<Grammar>, work: impl FnOnce() -> T) -> (T, Option<Vec<Grammar>>) {
        if grammars.is_empty() {
            return (work(), Some(grammars));
        }
        if self.thread.is_none() {
            self.thread = start().inspect_err(|error| tracing::warn!(%error, "masks have no thread of their own")).ok();
        }
        let Some((asked, done)) = &self.thread else { return (work(), Some(grammars)) };
        match asked.send(grammars) {
            Ok(()) => {
                let given = work();
                (given, done.recv().ok())
            }
            Err(unsent) => (work(), Some(unsent.0)),
        }
    }
}

fn start() -> std::io::Result<Ends> {
    let ((asked, batches), (finished, done)) = (channel::<Vec<Grammar>>(), channel());
    std::thread::Builder::new().name("text-masks".into()).spawn(move || {
        for mut grammars in batches {
            grammars.iter_mut().for_each(Grammar::prepare);
            if finished.send(grammars).is_err() {
                return;
            }
        }
    })?;
    Ok((asked, done))
}
