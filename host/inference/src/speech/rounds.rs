//! Where transcriptions that go on at the same time meet, so that each weight is read once for all of them.
//!
//! A transcription is a future that asks here for what the network computes, and waits. Once all of them wait,
//! [`Rounds::compute`] answers: the encoder takes window by window, and the decoder reads what everybody asked in one pass.
//! All of it happens on one thread, so there is nothing to lock. It knows nothing of files, beams or tenants.

use std::cell::RefCell;
use std::rc::Rc;

use futures::channel::oneshot;

use super::network::{Cache, Group, Heard, Network, Row, Watch};
use crate::AiError;

/// Logits of so many rows are computed at once: 50 MB of them. One request may ask for almost as many.
const MOST_WANTED: usize = 256;

/// The meeting place.
#[derive(Default)]
pub(crate) struct Rounds {
    asked: RefCell<Vec<Asked>>,
}

enum Asked {
    Hear { spectrogram: Vec<f32>, answer: oneshot::Sender<Heard> },
    Read { read: Read, answer: oneshot::Sender<Answer> },
}

/// Tokens to read.
pub(crate) struct Read {
    pub(crate) heard: Rc<Heard>,
    /// The keys and values of earlier tokens.
    pub(crate) cache: Cache,
    pub(crate) rows: Vec<OwnRow>,
    /// The rows whose logits are wanted.
    pub(crate) wanted: Vec<usize>,
    pub(crate) watch: Option<Watch>,
}

/// A [`Row`] that waits.
pub(crate) struct OwnRow {
    pub(crate) token: u32,
    pub(crate) position: usize,
    pub(crate) slot: u32,
    pub(crate) sees: Vec<u32>,
}

/// What was read.
pub(crate) struct Answer {
    pub(crate) cache: Cache,
    pub(crate) logits: Vec<f32>,
    pub(crate) watch: Option<Watch>,
}

impl OwnRow {
    fn borrowed(&self) -> Row<'_> {
        Row { token: self.token, position: self.position, slot: self.slot, sees: &self.sees }
    }
}

impl Read {
    /// Nothing, in a window whose sound is `heard`.
    pub(crate) fn new(heard: &Rc<Heard>) -> Read {
        Read { heard: heard.clone(), cache: Cache::default(), rows: Vec::new(), wanted: Vec::new(), watch: None }
    }
}

/// Tokens that begin a window, each of which sees those before it.
pub(crate) fn sequence_rows(tokens: &[u32]) -> Vec<OwnRow> {
    let row = |(position, token): (usize, &u32)| OwnRow {
        token: *token,
        position,
        slot: position as u32,
        sees: (0..=position as u32).collect(),
    };
    tokens.iter().enumerate().map(row).collect()
}

impl Rounds {
    /// What the encoder makes of a spectrogram.
    ///
    /// # Errors
    /// 3043 when the network failed.
    pub(crate) async fn hear(&self, spectrogram: Vec<f32>) -> Result<Heard, AiError> {
        let (answer, heard) = oneshot::channel();
        self.asked.borrow_mut().push(Asked::Hear { spectrogram, answer });
        heard.await.map_err(|_| failed())
    }

    /// Reads tokens.
    ///
    /// # Errors
    /// 3043 when the network failed.
    pub(crate) async fn read(&self, read: Read) -> Result<Answer, AiError> {
        let (answer, done) = oneshot::channel();
        self.asked.borrow_mut().push(Asked::Read { read, answer });
        done.await.map_err(|_| failed())
    }

    /// Answers all that has been asked.
    pub(crate) fn compute(&self, network: &mut Network) {
        let mut reads = Vec::new();
        for asked in self.asked.take() {
            match asked {
                // Whoever asked may be gone.
                Asked::Hear { answer, .. } if answer.is_canceled() => {}
                Asked::Hear { spectrogram, answer } => drop(answer.send(network.hear(&spectrogram))),
                Asked::Read { answer, .. } if answer.is_canceled() => {}
                Asked::Read { read, answer } => reads.push((read, answer)),
            }
        }
        while !reads.is_empty() {
            let mut wanted = 0;
            let fits = |(read, _): &&(Read, oneshot::Sender<Answer>)| {
                wanted += read.wanted.len();
                wanted <= MOST_WANTED
            };
            let count = reads.iter().take_while(fits).count().max(1);
            answer_reads(network, reads.drain(..count).collect());
        }
    }
}

fn answer_reads(network: &mut Network, mut reads: Vec<(Read, oneshot::Sender<Answer>)>) {
    let own: Vec<Vec<OwnRow>> = reads.iter_mut().map(|(read, _)| std::mem::take(&mut read.rows)).collect();
    let rows: Vec<Vec<Row<'_>>> = own.iter().map(|rows| rows.iter().map(OwnRow::borrowed).collect()).collect();
    let groups = reads.iter_mut().zip(&rows).map(|((read, _), rows)| Group {
        heard: &read.heard,
        cache: &mut read.cache,
        rows,
        wanted: &read.wanted,
        watch: read.watch.as_mut(),
        logits: Vec::new(),
    });
    let mut groups: Vec<Group<'_, '_>> = groups.collect();
    network.read(&mut groups);
    let logits: Vec<Vec<f32>> = groups.into_iter().map(|group| group.logits).collect();
    for ((read, answer), logits) in reads.into_iter().zip(logits) {
        // Whoever asked may be gone.
        let _ = answer.send(Answer { cache: read.cache, logits, watch: read.watch });
    }
}

fn failed() -> AiError {
    AiError::internal("the model's work failed unexpectedly")
}
