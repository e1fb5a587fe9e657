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

use super::network::Network;
use super::rounds::Rounds;
use super::transcribe::Voice;
use crate::backend::{TranscribeRequest, Transcript};
use crate::desk::{Lines, Waiting};
use crate::{AiError, Tenant};

/// Requests that are decoded at the same time. Each holds a window's keys and values, 18 MB in the smallest model.
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
}

impl Seats {
    /// Starts the thread. `bound` requests of a tenant may wait.
    pub(super) fn open(bound: NonZeroUsize, voice: Voice, mut network: Network) -> std::io::Result<Seats> {
        let lines = Arc::new(Lines::new(bound));
        let waiting = lines.clone();
        std::thread::Builder::new().name("speech".to_owned()).spawn(move || serve(&waiting, &voice, &mut network))?;
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
fn serve(lines: &Lines<Job>, voice: &Voice, network: &mut Network) {
    let rounds = Rounds::default();
    let mut seated: Vec<Seat<'_>> = Vec::new();
    loop {
        if seated.is_empty() {
            let Some(first) = lines.next() else { return };
            seated.push(Seat::new(first, voice, &rounds));
        }
        while seated.len() < SEATS {
            let has_room = |waiting: &Waiting<Job>| {
                seated.iter().filter(|seat| seat.tenant == waiting.tenant).count() < OF_A_TENANT
            };
            let Some(next) = lines.next_of(has_room) else { break };
            seated.push(Seat::new(next, voice, &rounds));
        }
        // Each goes on until it needs the network.
        seated.retain_mut(|seat| !seat.ended());
        if catch_unwind(AssertUnwindSafe(|| rounds.compute(network))).is_err() {
            // Those who asked hear of it: their questions are gone.
            tracing::error!("a model of speech panicked");
        }
    }
}

impl<'a> Seat<'a> {
    fn new(waiting: Waiting<Job>, voice: &'a Voice, rounds: &'a Rounds) -> Seat<'a> {
        let Waiting { tenant, ticket, work: Job { request, reply } } = waiting;
        let work = Box::pin(async move { voice.transcribe(rounds, &request, &ticket).await });
        Seat { tenant, reply: Some(reply), work }
    }

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
