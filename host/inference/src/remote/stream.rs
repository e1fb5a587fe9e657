//! An answer that streams, as the events of a generation.

use futures::StreamExt as _;
use futures::stream;
use host_upstream::{Answer, Events, UpstreamError};
use tokio::sync::OwnedSemaphorePermit;

use super::chat::no_call;
use super::reading::{Gathered, Piece, piece};
use super::told;
use crate::AiError;
use crate::backend::{FinishReason, GenerateEvent, GenerateStream, Usage};

/// What of a streamed answer is read in all, in bytes.
const MAX_BYTES: usize = 256 << 20;

/// An answer under way.
pub(super) struct Streamed {
    answer: Answer,
    events: Events,
    bytes: usize,
    calls: Gathered,
    must_call: bool,
    pieces: usize,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
}

impl Streamed {
    /// Reads until there is something to give, so that a server that fails before has given nothing yet. None at the end.
    pub(super) async fn begin(answer: Answer) -> Result<(Self, Option<String>), UpstreamError> {
        let mut this = Self {
            answer,
            events: Events::default(),
            bytes: 0,
            calls: Gathered::default(),
            must_call: false,
            pieces: 0,
            finish: None,
            usage: None,
        };
        let first = this.text().await?;
        Ok((this, first))
    }

    /// The next text; none when the answer has ended.
    async fn text(&mut self) -> Result<Option<String>, UpstreamError> {
        loop {
            while let Some(data) = self.events.read().map_err(|error| self.answer.broken(error.to_string()))? {
                if data == "[DONE]" {
                    return Ok(None);
                }
                let read = piece(&data, &mut self.calls).map_err(|reason| self.answer.broken(reason))?;
                let Piece { text, finish, usage } = read;
                self.finish = finish.or(self.finish);
                self.usage = usage.or(self.usage);
                if !text.is_empty() {
                    self.pieces += 1;
                    return Ok(Some(text));
                }
            }
            match self.answer.piece().await? {
                Some(bytes) => {
                    self.bytes += bytes.len();
                    if self.bytes > MAX_BYTES {
                        return Err(self.answer.broken(format!("it is longer than {MAX_BYTES} bytes")));
                    }
                    self.events.push(&bytes);
                }
                // Some servers end without the last event; one that has said why it ended has said all.
                None if self.finish.is_some() => return Ok(None),
                None => return Err(self.answer.broken("it ended before the model did")),
            }
        }
    }

    /// The events of the generation, of which `first` is the first text, and which has to end in calls if it `must_call`.
    pub(super) fn events(
        mut self,
        first: Option<String>,
        must_call: bool,
        model: String,
        permit: OwnedSemaphorePermit,
    ) -> GenerateStream {
        self.must_call = must_call;
        let Some(first) = first else {
            return stream::once(async move { self.end(&model, permit).await }).flat_map(stream::iter).boxed();
        };
        let rest = stream::unfold(Some((self, model, permit)), |state| async move {
            let (mut this, model, permit) = state?;
            match this.text().await {
                Ok(Some(text)) => Some((vec![GenerateEvent::Text(text)], Some((this, model, permit)))),
                Ok(None) => Some((this.end(&model, permit).await, None)),
                Err(error) => Some((vec![GenerateEvent::Failed(told(&model, &error))], None)),
            }
        });
        stream::iter([GenerateEvent::Text(first)]).chain(rest.flat_map(stream::iter)).boxed()
    }

    /// The last events.
    async fn end(mut self, model: &str, _permit: OwnedSemaphorePermit) -> Vec<GenerateEvent> {
        let calls = match std::mem::take(&mut self.calls).finish() {
            Ok(calls) => calls,
            Err(reason) => return vec![GenerateEvent::Failed(told(model, &self.answer.broken(reason)))],
        };
        if self.must_call && calls.is_empty() {
            self.answer.finish().await;
            return vec![GenerateEvent::Failed(no_call(model))];
        }
        // A server that reports no usage sends a token with each event.
        let counted = Usage { prompt_tokens: 0, completion_tokens: self.pieces, total_tokens: self.pieces };
        let done = GenerateEvent::Done {
            finish: self.finish.unwrap_or(FinishReason::Stop),
            usage: self.usage.unwrap_or(counted),
        };
        self.answer.finish().await;
        let calls = (!calls.is_empty()).then_some(GenerateEvent::Calls(calls));
        calls.into_iter().chain([done]).collect()
    }
}

/// Ends a generation at its deadline, however little the server does until then.
pub(super) fn until(events: GenerateStream, deadline: Option<std::time::Instant>) -> GenerateStream {
    let Some(deadline) = deadline else { return events };
    let over = Box::pin(tokio::time::sleep_until(deadline.into()));
    // The clock is asked last, so that what is there is given first.
    stream::unfold(Some((events, over)), |state| async move {
        let (mut events, mut over) = state?;
        tokio::select! {
            biased;
            event = events.next() => match event? {
                event @ (GenerateEvent::Done { .. } | GenerateEvent::Failed(_)) => Some((event, None)),
                event => Some((event, Some((events, over)))),
            },
            () = &mut over => Some((GenerateEvent::Failed(AiError::timeout()), None)),
        }
    })
    .boxed()
}
