//! One generation: its tokens, its blocks and how far it has come.

use std::sync::Arc;
use std::time::Instant;

use host_kernels::kv::BLOCK_TOKENS;
use tokio::sync::mpsc::UnboundedSender;

use super::forward::Span;
use super::grammar::Grammar;
use super::kv_blocks::{Alike, BlockPool, BlockTable, Link, Root};
use super::lora::Adapter;
use super::sampler::Sampler;
use super::scheduler::Drafts;
use super::stop::StopTexts;
use super::tokenizer::{Detokenizer, Vocabulary};
use crate::backend::{FinishReason, GenerateEvent, Sampling, Usage};
use crate::{AiError, Tenant};

/// A generation whose prompt has been read and found to fit.
pub(crate) struct Job {
    pub(crate) tenant: Tenant,
    /// What else than the tokens decides keys and values: the number of an adapter, 0 for none.
    pub(crate) salt: u64,
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    pub(crate) grammar: Option<Grammar>,
    pub(crate) adapter: Option<Arc<Adapter>>,
    pub(crate) max_tokens: usize,
    pub(crate) deadline: Option<Instant>,
    /// Where events go. Unbounded, because `max_tokens` bounds them and a slow reader must not hold up the batch.
    pub(crate) events: UnboundedSender<GenerateEvent>,
}

/// A job that waits or runs. What it holds beside its blocks stays when it has to give those back, so it goes on as if
/// nothing had happened once its tokens have been read again.
pub(crate) struct Sequence {
    /// Its place in the order of arrival.
    number: u64,
    tenant: Tenant,
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Tokens that were charged to the tenant.
    charged: usize,
    table: BlockTable,
    /// A block that a part can be taken over from.
    alike: Option<Alike>,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopTexts,
    grammar: Option<Grammar>,
    adapter: Option<Arc<Adapter>>,
    drafts: Drafts,
    /// The tokens of the next span, if it goes beyond those that are known: the last ones are guessed.
    ahead: Vec<u32>,
    guessed: usize,
    max_tokens: usize,
    deadline: Option<Instant>,
    events: UnboundedSender<GenerateEvent>,
}

impl Sequence {
    /// `job` before its first step, with no blocks of `pool` yet.
    pub(crate) fn new(job: Job, number: u64, pool: &BlockPool, detokenizer: Detokenizer) -> Self {
        let Job { tenant, salt, prompt, sampling, stop, grammar, adapter, max_tokens, deadline, events } = job;
        Self {
            number,
            table: pool.table(Root { tenant: tenant.clone(), salt }),
            tenant,
            sampler: Sampler::new(sampling, &prompt),
            prompt: prompt.len(),
            tokens: prompt,
            computed: 0,
            charged: 0,
            alike: None,
            detokenizer,
            stop: StopTexts::new(stop),
            grammar,
            adapter,
            drafts: Drafts::default(),
            ahead: Vec::new(),
            guessed: 0,
            max_tokens,
            deadline,
            events,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Tokens that have to be read before the next one can be picked: 1 while it decodes.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it is over at `now` without an answer: nobody waits for it, or its time has passed, which is reported.
    pub(crate) fn given_up(&self, now: Instant) -> bool {
        if self.events.is_closed() {
            return true;
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        if late {
            self.fail(AiError::timeout());
        }
        late
    }

    /// Takes over what is cached of its tokens and blocks for the others, if that leaves `margin` blocks of `pool`.
    pub(crate) fn enter(&mut self, pool: &BlockPool, margin: usize) -> bool {
        self.table.share(&self.tokens);
        self.alike = self.table.alike(&self.tokens);
        if self.table.grow(self.tokens.len()) && pool.available() >= margin {
            self.computed = self.table.shared_tokens();
            return true;
        }
        self.leave();
        false
    }

    /// Takes over part of a block that begins as its next one does: `copy(from, to)` has to copy it, and to be called
    /// before anything is written after [`Self::enter`].
    pub(crate) fn take_part(&mut self, copy: impl FnOnce(u32, u32) -> bool) {
        let Some(alike) = self.alike.take() else { return };
        let place = self.table.blocks().get(self.computed / BLOCK_TOKENS);
        if place.is_some_and(|place| copy(alike.block, *place)) {
            self.computed += alike.tokens;
        }
    }

    /// Gives all blocks back. Its tokens have to be read again.
    pub(crate) fn leave(&mut self) {
        self.table.clear();
        self.alike = None;
        self.computed = 0;
        self.guessed = 0;
    }

    /// Takes over what others have computed of its next tokens in the meantime. Gives how many tokens that were.
    pub(crate) fn catch_up(&mut self) -> usize {
        if !self.could_take_over() {
            return 0;
        }
        self.table.share(&self.tokens);
        let more = self.table.shared_tokens() - self.computed;
        self.computed += more;
        more
    }

    /// Whether it stands at the beginning of a block that it could take over from another.
    pub(crate) fn could_take_over(&self) -> bool {
        self.computed == self.table.shared_tokens() && self.pending() > BLOCK_TOKENS
    }

    /// What the block that it is reading will be known by.
    pub(crate) fn block_in_progress(&self) -> Option<Link> {
        self.table.next_link(&self.tokens)
    }

    /// The tokens that its tenant has not paid for, which count as paid from now on. What is read a second time, or
    /// taken over from the cache, costs nothing.
    pub(crate) fn charge(&mut self) -> usize {
        let paid = self.charged.max(self.computed.min(self.prompt));
        self.charged = self.tokens.len();
        self.tokens.len().saturating_sub(paid)
    }

    /// Tokens that were taken over from the cache, before anything was computed.
    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// Takes the blocks for the next `count` tokens. False if there are not enough.
    pub(crate) fn make_room(&mut self, count: usize) -> bool {
        self.table.grow(self.computed + count)
    }

    /// Guesses what follows its tokens, all of which the next span then reads: tokens whose odds are above `paying`, as
    /// far as the grammar, the length of the answer and the cache allow. Gives how many.
    pub(crate) fn guess(&mut self, paying: f32) -> usize {
        // The last token of the longest answer is never read.
        let room = (self.prompt + self.max_tokens).saturating_sub(self.tokens.len() + 1);
        let mut draft = self.drafts.propose(&self.tokens, room, paying);
        if let Some(grammar) = &mut self.grammar {
            draft.truncate(grammar.fits(&draft));
        }
        if !self.table.grow(self.tokens.len() + draft.len()) {
            draft.clear();
        }
        self.guessed = draft.len();
        if self.guessed > 0 {
            self.ahead.clear();
            self.ahead.extend_from_slice(&self.tokens[self.computed..]);
            self.ahead.append(&mut draft);
        }
        self.guessed
    }

    /// Rows of logits that the next span of `count` tokens asks for.
    pub(crate) fn rows(&self, count: usize) -> usize {
        if count > 0 && count == self.pending() { 1 + self.guessed } else { 0 }
    }

    /// The next `count` tokens, and the guessed ones, as the model reads them.
    pub(crate) fn span(&self, count: usize) -> Span<'_> {
        let end = (self.computed + count).min(self.tokens.len());
        let tokens = if self.guessed > 0 { &self.ahead } else { &self.tokens[self.computed..end] };
        Span {
            tokens,
            position: self.computed,
            blocks: self.table.blocks(),
            logits: self.rows(count),
            adapter: self.adapter.as_deref(),
        }
    }

    /// Lends the grammar of the answer, if it has one and `count` more tokens are the last before the next is picked.
    pub(crate) fn lend_grammar(&mut self, count: usize) -> Option<Grammar> {
        if count > 0 && count == self.pending() { self.grammar.take() } else { None }
    }

    /// Takes back what was lent.
    pub(crate) fn return_grammar(&mut self, grammar: Grammar) {
        self.grammar = Some(grammar);
    }

    /// Notes that `count` tokens were read.
    pub(crate) fn read(&mut self, count: usize) {
        self.computed += count;
        self.table.register(&self.tokens, self.computed);
    }

    /// Picks tokens from `rows` of logits, the first after its last token, the others after those that were guessed, as
    /// long as what is picked is what was guessed. Returns whether the generation goes on, and how many guesses were
    /// right.
    pub(crate) fn follow<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [f32]>,
        vocabulary: &Vocabulary,
    ) -> (bool, usize) {
        let guessed = std::mem::take(&mut self.guessed);
        let known = self.tokens.len();
        let draft = self.ahead.split_off(self.ahead.len() - guessed);
        let (mut goes_on, mut right) = (true, 0);
        for (i, row) in rows.enumerate() {
            // A grammar may have added several tokens at once.
            if self.tokens.len() - known > i {
                continue;
            }
            goes_on = self.advance(row, vocabulary);
            let added = &self.tokens[known..];
            right = added.iter().zip(&draft).take_while(|(token, guess)| token == guess).count();
            if !goes_on || right < added.len() {
                break;
            }
        }
        if guessed > 0 {
            self.drafts.judge(guessed, right);
        }
        self.read(right);
        (goes_on, right)
    }

    /// Picks the next token and reports its text. Returns whether the generation goes on.
    fn advance(&mut self, logits: &[f32], vocabulary: &Vocabulary) -> bool {
        let (token, forced) = match self.pick(logits, vocabulary) {
            Ok(picked) => picked,
            Err(error) => {
                self.fault(error);
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

    /// Reports a failure of the model. The sequence has ended then, and nobody else is given its keys and values: they
    /// may be what is wrong.
    pub(crate) fn fault(&mut self, error: AiError) {
        self.table.discard();
        self.fail(error);
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
