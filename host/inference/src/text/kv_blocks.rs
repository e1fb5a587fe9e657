//! Who holds which block of the KV cache, and which blocks can be used again.
//!
//! A full block of 32 tokens is never written again, so it may have many holders. It is known by its tokens and by all
//! that came before them: the index maps (the block before, these tokens) to a block, where "the block before" is a
//! number that is never given twice. So equal chains are found by comparing every token of them, one block at a time,
//! and no equality of hashes is trusted. The first block of a chain follows its [`Root`]: chains of different tenants or
//! adapters have nothing in common, so that nobody can tell by the time an answer takes what another has sent.
//!
//! Chains mostly part inside a block. Of the blocks that go on from the same place, the one that begins most alike can
//! be copied, so that only what follows has to be computed.
//!
//! Blocks without a holder stay in the index until a block is needed; the one that has been unused for longest goes
//! first. Whoever holds a block holds all before it and lets go of the last one first, so a chain is lost from its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host_kernels::kv::BLOCK_TOKENS;

use crate::Tenant;

/// What a chain of blocks starts from: tokens mean the same keys and values only under the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Root {
    /// On whose behalf the tokens are read.
    pub tenant: Tenant,
    /// What else changes keys and values: the number of an adapter, 0 for none.
    pub salt: u64,
}

/// What comes before a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Before {
    Root(Root),
    /// The block that was given this number when it entered the index.
    Block(u64),
}

/// What a block in the index holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    before: Before,
    tokens: [u32; BLOCK_TOKENS],
}

/// A block of which a copy saves computing some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alike {
    /// The block.
    pub(crate) block: u32,
    /// How many of its tokens, from the first, are the same.
    pub(crate) tokens: usize,
}

/// How many blocks that go on from the same place are compared with what is asked for, the latest first.
const COMPARED: usize = 32;

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    /// Its entry in the index and its number there.
    entry: Option<(Link, u64)>,
    /// When the last holder let go of it, if it is in the index and has none.
    idle_since: u64,
}

#[derive(Debug)]
struct State {
    blocks: Vec<Block>,
    /// Blocks with no holder and no entry. The one freed last is used next: its memory is warm, and blocks that were
    /// never touched cost none.
    free: Vec<u32>,
    /// Blocks with an entry and no holder, by when they were let go.
    idle: BTreeMap<u64, u32>,
    index: HashMap<Link, u32>,
    /// The blocks of the index by what they come after, in the order in which they entered.
    followers: HashMap<Before, Vec<u32>>,
    /// Counts entries and releases: the source of numbers that are never given twice.
    clock: u64,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// A block for one new holder.
    fn take(&mut self) -> Option<u32> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                let (_, number) = self.idle.pop_first()?;
                self.unlink(number);
                number
            }
        };
        self.blocks[number as usize].holders = 1;
        Some(number)
    }

    /// Another holder for a block of the index. Gives the block's number there.
    fn join(&mut self, block: u32) -> Option<u64> {
        let state = &mut self.blocks[block as usize];
        if state.holders == 0 {
            self.idle.remove(&state.idle_since);
        }
        state.holders += 1;
        state.entry.as_ref().map(|(_, number)| *number)
    }

    fn release(&mut self, block: u32) {
        let now = self.tick();
        let state = &mut self.blocks[block as usize];
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        if state.entry.is_some() {
            state.idle_since = now;
            self.idle.insert(now, block);
        } else {
            self.free.push(block);
        }
    }

    /// Takes a block that has one holder out of the index.
    fn forget(&mut self, block: u32) {
        if self.blocks[block as usize].holders == 1 {
            self.unlink(block);
        }
    }

    /// Enters a block into the index. Gives its number there.
    fn link(&mut self, link: Link, block: u32) -> u64 {
        let number = self.tick();
        self.index.insert(link.clone(), block);
        self.followers.entry(link.before.clone()).or_default().push(block);
        self.blocks[block as usize].entry = Some((link, number));
        number
    }

    /// Takes a block out of the index, if it is there.
    fn unlink(&mut self, block: u32) {
        let Some((link, _)) = self.blocks[block as usize].entry.take() else { return };
        self.index.remove(&link);
        if let Some(followers) = self.followers.get_mut(&link.before) {
            followers.retain(|follower| *follower != block);
            if followers.is_empty() {
                self.followers.remove(&link.before);
            }
        }
    }
}

/// All blocks of one model's store.
#[derive(Debug, Clone)]
pub struct BlockPool {
    state: Arc<Mutex<State>>,
    total: usize,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlockPool {
    /// A pool of blocks numbered from 0.
    pub fn new(blocks: u32) -> Self {
        let state = State {
            blocks: (0..blocks).map(|_| Block::default()).collect(),
            free: (0..blocks).rev().collect(),
            idle: BTreeMap::new(),
            index: HashMap::new(),
            followers: HashMap::new(),
            clock: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), total: blocks as usize }
    }

    /// How many blocks there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many blocks nobody holds, those included that could be used again as they are.
    pub fn available(&self) -> usize {
        lock(&self.state).available()
    }

    /// How many of the blocks that nobody holds could be used again as they are.
    pub fn reusable(&self) -> usize {
        lock(&self.state).idle.len()
    }

    /// A table without blocks.
    pub fn table(&self, root: Root) -> BlockTable {
        let before = Before::Root(root.clone());
        BlockTable { state: self.state.clone(), root, blocks: Vec::new(), chained: 0, before }
    }
}

/// One sequence's blocks, in the order of its positions. Dropping it lets go of them.
#[derive(Debug)]
pub struct BlockTable {
    state: Arc<Mutex<State>>,
    root: Root,
    blocks: Vec<u32>,
    /// How many blocks, from the first, are in the index. They are full and must not be written.
    chained: usize,
    /// What the next block to enter the index comes after.
    before: Before,
}

impl BlockTable {
    /// The blocks, of which the first [`Self::shared_tokens`] tokens' must not be written.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Tokens in the blocks that others may hold too.
    pub fn shared_tokens(&self) -> usize {
        self.chained * BLOCK_TOKENS
    }

    /// What the block after the shared ones will be known by, if `tokens` fill it.
    pub(crate) fn next_link(&self, tokens: &[u32]) -> Option<Link> {
        let (full, _) = tokens.as_chunks::<BLOCK_TOKENS>();
        full.get(self.chained).map(|tokens| Link { before: self.before.clone(), tokens: *tokens })
    }

    /// Takes over the blocks of the longest known chain that goes on with `tokens`, beyond [`Self::shared_tokens`]. The
    /// last token's block is never among them: somebody has to read that token to know what follows.
    ///
    /// Blocks of its own in their places are given back, so nothing may have been computed beyond the shared tokens.
    pub fn share(&mut self, tokens: &[u32]) {
        let known = tokens.len().saturating_sub(1);
        let shared = self.state.clone();
        let mut state = lock(&shared);
        while let Some(link) = self.next_link(&tokens[..known])
            && let Some(block) = state.index.get(&link).copied()
        {
            self.adopt(&mut state, block);
        }
    }

    /// The block that begins most like what `tokens` goes on with beyond [`Self::shared_tokens`], if there is one. The
    /// last token never counts, as in [`Self::share`]. Taking blocks may give this one away: copy it before anything is
    /// written.
    pub(crate) fn alike(&self, tokens: &[u32]) -> Option<Alike> {
        let wanted = tokens.get(self.shared_tokens()..tokens.len().saturating_sub(1))?;
        let state = lock(&self.state);
        let latest = state.followers.get(&self.before)?.iter().rev().take(COMPARED);
        let alike = latest.filter_map(|block| {
            let (link, _) = state.blocks[*block as usize].entry.as_ref()?;
            let tokens = link.tokens.iter().zip(wanted).take_while(|(known, wanted)| known == wanted).count();
            Some(Alike { block: *block, tokens })
        });
        alike.max_by_key(|alike| alike.tokens).filter(|alike| alike.tokens > 0)
    }

    /// Holds `block` of the index in the next place, instead of the one that may be there.
    fn adopt(&mut self, state: &mut State, block: u32) {
        let Some(number) = state.join(block) else { return };
        match self.blocks.get_mut(self.chained) {
            Some(place) => {
                let own = std::mem::replace(place, block);
                state.release(own);
            }
            None => self.blocks.push(block),
        }
        self.chained += 1;
        self.before = Before::Block(number);
    }

    /// Enters the blocks that the first `computed` of `tokens` fill into the index. Where another sequence has computed
    /// the same in the meantime, its block is held from now on and this table's own is given back.
    pub fn register(&mut self, tokens: &[u32], computed: usize) {
        if computed < self.shared_tokens() + BLOCK_TOKENS {
            return;
        }
        let shared = self.state.clone();
        let mut state = lock(&shared);
        while let Some(link) = self.next_link(&tokens[..computed])
            && let Some(own) = self.blocks.get(self.chained).copied()
        {
            if let Some(known) = state.index.get(&link).copied() {
                self.adopt(&mut state, known);
                continue;
            }
            let number = state.link(link, own);
            self.chained += 1;
            self.before = Before::Block(number);
        }
    }

    /// Takes blocks until `tokens` tokens fit. False, and no block, if the pool has not got them.
    #[must_use]
    pub fn grow(&mut self, tokens: usize) -> bool {
        let missing = tokens.div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len());
        if missing == 0 {
            return true;
        }
        let mut state = lock(&self.state);
        if state.available() < missing {
            return false;
        }
        self.blocks.extend((0..missing).map_while(|_| state.take()));
        true
    }

    /// Lets go of all blocks.
    pub fn clear(&mut self) {
        let mut state = lock(&self.state);
        for block in self.blocks.drain(..).rev() {
            state.release(block);
        }
        self.chained = 0;
        self.before = Before::Root(self.root.clone());
    }

    /// Lets go of all blocks, and takes those that only this table holds out of the index: what they hold may be wrong.
    pub fn discard(&mut self) {
        let mut state = lock(&self.state);
        for block in &self.blocks {
            state.forget(*block);
        }
        drop(state);
        self.clear();
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
