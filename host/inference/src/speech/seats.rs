//! Where transcriptions go on side by side: a thread that holds the network, and seats for those whose turn has come.
//!
//! Several are decoded together, because a step of the decoder takes about as long for the hypotheses of four requests as
//! for those of one: what takes time is reading the weights. Whoever waits gets the next free seat in turns of their
//! tenants, and one tenant has at most half of the seats, so a long file of one does not keep out the others.

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::needs;
use super::network::Network;
use super::rounds::Rounds;
use super::transcribe::Voice;
use crate::backend::{TranscribeRequest, Transcript};
use crate::desk::{Lines, Waiting};
use crate::room::{Reservation, Room};
use crate::{AiError, Tenant};

/// Requests that are decoded at the same time, where there is memory for them. Each holds a window's keys and values, 18 MB
/// in the smallest model.
const SEATS: usize = 8;
/// Those of one tenant.
const OF_A_TENANT: usize = 4;

type Reply = oneshot::Sender<Result<Transcript, AiError>>;

/// A model, its thread and those who wait for it. Dropping it ends the thread once its current work is done; those who
/// wait get 3008.
pub(super) struct Seats {
    lines: Arc<Lines<Job>>,
}

struct Job {
    request: TranscribeRequest,
    reply: Reply,
}

/// A transcription under way.
struct Seat<'a> {
    tenant: Tenant,
    reply: Option<Reply>,
    work: Pin<Box<dyn Future<Output = Result<Transcript, AiError>> + 'a>>,
    _memory: Reservation,
}

impl Seats {
    /// Starts the thread. `bound` requests of a tenant may wait; memory for seats comes out of `room`.
    pub(super) fn open(bound: NonZeroUsize, voice: Voice, network: Network, room: Room) -> std::io::Result<Seats> {
        let lines = Arc::new(Lines::new(bound));
        let waiting = lines.clone();
        std::thread::Builder::new().name("speech".to_owned()).spawn(move || serve(&waiting, &voice, network, &room))?;
        Ok(Seats { lines })
    }

    /// Lets a request wait for its turn. Dropping the future gives it up.
    pub(super) fn transcribe(&self, request: TranscribeRequest) -> BoxFuture<'static, Result<Transcript, AiError>> {
        let (tenant, deadline) = (request.tenant.clone(), request.deadline);
        self.lines.wait(tenant, deadline, |reply| Job { request, reply })
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        self.lines.close();
    }
}

/// Works until the lines are closed and nobody is seated.
fn serve(lines: &Lines<Job>, voice: &Voice, mut network: Network, room: &Room) {
    let rounds = Rounds::default();
    let mut hall = Hall { lines, voice, rounds: &rounds, room, seated: Vec::new(), shared: None, next: None };
    loop {
        if hall.seated.is_empty() {
            hall.shared = None;
            if room.bounded() {
                network.forget();
            }
            if !hall.seat_first() {
                return;
            }
        }
        hall.seat_others();
        // Each goes on until it needs the network.
        hall.seated.retain_mut(|seat| !seat.ended());
        if catch_unwind(AssertUnwindSafe(|| rounds.compute(&mut network))).is_err() {
            // Those who asked hear of it: their questions are gone.
            tracing::error!("a model of speech panicked");
        }
    }
}

/// Who is seated, and who is let in.
struct Hall<'a> {
    lines: &'a Lines<Job>,
    voice: &'a Voice,
    rounds: &'a Rounds,
    room: &'a Room,
    seated: Vec<Seat<'a>>,
    /// Memory of the buffers that all use.
    shared: Option<Reservation>,
    /// Whose turn it is, and for whom there is no memory while the others are seated.
    next: Option<Waiting<Job>>,
}

impl Hall<'_> {
    /// Waits for somebody to come, and for their memory. False once the lines are closed.
    fn seat_first(&mut self) -> bool {
        while self.seated.is_empty() {
            let Some(first) = self.next.take().or_else(|| self.lines.next()) else { return false };
            let (bytes, shared) = (self.bytes(&first), needs::shared(&self.voice.config));
            match first.ticket.reserve(self.room, bytes.saturating_add(shared), &what(&first)) {
                Ok(mut memory) => {
                    self.shared = Some(memory.split(shared));
                    self.seat(first, memory);
                }
                Err(error) => drop(first.work.reply.send(Err(error))),
            }
        }
        true
    }

    /// Seats those who are there, as far as there are seats and memory.
    fn seat_others(&mut self) {
        while self.seated.len() < SEATS {
            let has_room = |waiting: &Waiting<Job>| {
                self.seated.iter().filter(|seat| seat.tenant == waiting.tenant).count() < OF_A_TENANT
            };
            let Some(next) = self.next.take().or_else(|| self.lines.next_of(has_room)) else { return };
            let reserved = next.ticket.check().and_then(|()| self.room.reserve_now(self.bytes(&next), &what(&next)));
            match reserved {
                Ok(Some(memory)) => self.seat(next, memory),
                Ok(None) => {
                    self.next = Some(next);
                    return;
                }
                Err(error) => drop(next.work.reply.send(Err(error))),
            }
        }
    }

    fn seat(&mut self, waiting: Waiting<Job>, memory: Reservation) {
        let (voice, rounds) = (self.voice, self.rounds);
        let Waiting { tenant, ticket, work: Job { request, reply } } = waiting;
        let work = Box::pin(async move { voice.transcribe(rounds, &request, &ticket).await });
        self.seated.push(Seat { tenant, reply: Some(reply), work, _memory: memory });
    }

    fn bytes(&self, waiting: &Waiting<Job>) -> u64 {
        needs::seat(&self.voice.config, self.voice.generation.alignment_heads.len(), waiting.work.request.beam_size)
    }
}

fn what(waiting: &Waiting<Job>) -> String {
    format!("transcribing '/audio' with {} beams ('/beam_size')", waiting.work.request.beam_size)
}

impl Seat<'_> {
    /// Goes on; whether it has come to its end.
    fn ended(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let done = match catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(done)) => done,
            Err(_) => {
                tracing::error!("a transcription panicked");
                Err(AiError::internal("the model's work failed unexpectedly"))
            }
        };
        if let Some(reply) = self.reply.take() {
            // Whoever waited may have gone.
            let _ = reply.send(done);
        }
        true
    }
}
