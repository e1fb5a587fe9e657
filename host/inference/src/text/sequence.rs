//! One generation in flight: its tokens, its blocks and how far it has come.

use tokio::sync::mpsc::UnboundedSender;

use super::forward::Span;
use super::grammar::Grammar;
use super::kv_blocks::BlockTable;
use super::sampler::Sampler;
use super::stop::StopTexts;
use super::tokenizer::{Detokenizer, Vocabulary};
use crate::backend::{FinishReason, GenerateEvent, Sampling, Usage};
use crate::{AiError, Tenant};

/// A generation whose prompt has been read and found to fit.
pub(crate) struct Job {
    pub(crate) tenant: Tenant,
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    pub(crate) grammar: Option<Grammar>,
    pub(crate) max_tokens: usize,
    /// Where events go. Unbounded, because `max_tokens` bounds them and a slow reader must not hold up the batch.
    pub(crate) events: UnboundedSender<GenerateEvent>,
}

impl Job {
    /// Positions that the cache must have room for.
    pub(crate) fn tokens(&self) -> usize {
        self.prompt.len().saturating_add(self.max_tokens)
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn cancelled(&self) -> bool {
        self.events.is_closed()
    }
}

/// A job that has its blocks.
pub(crate) struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    table: BlockTable,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopTexts,
    grammar: Option<Grammar>,
    max_tokens: usize,
    events: UnboundedSender<GenerateEvent>,
}

impl Sequence {
    /// Starts `job` on the blocks reserved for it.
    pub(crate) fn new(job: Job, table: BlockTable) -> Self {
        let Job { prompt, sampling, stop, grammar, max_tokens, events, .. } = job;
        Self {
            sampler: Sampler::new(sampling, &prompt),
            prompt: prompt.len(),
            tokens: prompt,
            computed: 0,
            table,
            detokenizer: Detokenizer::default(),
            stop: StopTexts::new(stop),
            grammar,
            max_tokens,
            events,
        }
    }

    /// Tokens that have to be read before the next one can be picked: 1 while it decodes.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Takes the blocks for the next `count` tokens. False is a fault of the reservation.
    pub(crate) fn make_room(&mut self, count: usize) -> bool {
        self.table.grow(self.computed + count)
    }

    /// The next `count` tokens, as the model reads them.
    pub(crate) fn span(&self, count: usize) -> Span<'_> {
        let end = (self.computed + count).min(self.tokens.len());
        Span {
            tokens: &self.tokens[self.computed..end],
            position: self.computed,
            blocks: self.table.blocks(),
            logits: end == self.tokens.len(),
        }
    }

    /// Notes that `count` tokens were read.
    pub(crate) fn read(&mut self, count: usize) {
        self.computed += count;
    }

    /// Picks the next token and reports its text. Returns whether the generation goes on.
    pub(crate) fn advance(&mut self, logits: &[f32], vocabulary: &Vocabulary) -> bool {
        let (token, forced) = match self.pick(logits, vocabulary) {
            Ok(picked) => picked,
            Err(error) => {
                self.fail(error);
                return false;
            }
        };
        if vocabulary.ends_turn(token) {
            self.finish(FinishReason::Stop);
            return false;
        }
        for token in std::iter::once(token).chain(forced) {
            if !self.take(token, vocabulary) {
                return false;
            }
        }
        if self.grammar.as_ref().is_some_and(Grammar::is_complete) {
            self.finish(FinishReason::Stop);
            return false;
        }
        true
    }

    /// The next token, and those that the answer's grammar puts behind it.
    fn pick(&mut self, logits: &[f32], vocabulary: &Vocabulary) -> Result<(u32, Vec<u32>), AiError> {
        let mask = self.grammar.as_mut().map(Grammar::mask).transpose().map_err(AiError::internal)?;
        let token = self.sampler.sample(logits, mask.as_ref());
        let token = token.map_err(|fault| AiError::internal(format!("{fault}; its weights are probably damaged")))?;
        let forced = match &mut self.grammar {
            Some(grammar) if !vocabulary.ends_turn(token) => grammar.accept(token).map_err(AiError::internal)?,
            _ => Vec::new(),
        };
        forced.iter().for_each(|token| self.sampler.count(*token));
        Ok((token, forced))
    }

    /// Adds a token to the answer and reports its text. Returns whether there is room for more.
    fn take(&mut self, token: u32, vocabulary: &Vocabulary) -> bool {
        self.tokens.push(token);
        let text = self.detokenizer.push(vocabulary.token(token));
        let (text, stopped) = self.stop.push(&text);
        self.show(text);
        if stopped {
            self.done(FinishReason::Stop);
            return false;
        }
        if self.tokens.len() - self.prompt >= self.max_tokens {
            self.finish(FinishReason::Length);
            return false;
        }
        true
    }

    /// Reports a failure. The sequence has ended then.
    pub(crate) fn fail(&self, error: AiError) {
        // The receiver may have gone: nobody is left to tell.
        let _ = self.events.send(GenerateEvent::Failed(error));
    }

    fn show(&self, text: String) {
        if !text.is_empty() {
            let _ = self.events.send(GenerateEvent::Text(text));
        }
    }

    /// Ends the answer with what was held back.
    fn finish(&mut self, reason: FinishReason) {
        let rest = self.detokenizer.finish();
        let (mut text, stopped) = self.stop.push(&rest);
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        self.show(text);
        self.done(if stopped { FinishReason::Stop } else { reason });
    }

    fn done(&self, finish: FinishReason) {
        let (prompt_tokens, completion_tokens) = (self.prompt, self.tokens.len() - self.prompt);
        let usage = Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
        let _ = self.events.send(GenerateEvent::Done { finish, usage });
    }
}
