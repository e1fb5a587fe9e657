//! Who owns which block of the KV cache.
//!
//! A sequence reserves, before any work is done for it, as many blocks as its prompt and its longest answer can need,
//! and takes them one by one as it grows. So a sequence that was admitted never waits for memory and never has to give
//! any back: there is nothing to preempt and no way to deadlock. Dropping a sequence's [`BlockTable`] frees its blocks.

use std::sync::{Arc, Mutex, PoisonError};

use host_kernels::kv::BLOCK_TOKENS;

#[derive(Debug)]
struct Free {
    /// The block freed last is used next: its memory is warm, and untouched blocks cost none.
    blocks: Vec<u32>,
    /// Blocks promised to sequences that have not taken them.
    reserved: usize,
}

/// All blocks of one model's store.
#[derive(Debug, Clone)]
pub struct BlockPool {
    free: Arc<Mutex<Free>>,
    total: usize,
}

impl BlockPool {
    /// A pool of blocks numbered from 0.
    pub fn new(blocks: u32) -> Self {
        let free = Free { blocks: (0..blocks).rev().collect(), reserved: 0 };
        Self { free: Arc::new(Mutex::new(free)), total: blocks as usize }
    }

    /// How many blocks there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many blocks could be reserved now.
    pub fn available(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.blocks.len() - free.reserved
    }

    /// Reserves room for a sequence of up to `tokens` tokens; none if the pool has not got it now.
    pub fn reserve(&self, tokens: usize) -> Option<BlockTable> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.blocks.len() - free.reserved < blocks {
            return None;
        }
        free.reserved += blocks;
        Some(BlockTable { free: self.free.clone(), blocks: Vec::new(), reserved: blocks })
    }
}

/// One sequence's blocks, in the order of its positions.
#[derive(Debug)]
pub struct BlockTable {
    free: Arc<Mutex<Free>>,
    blocks: Vec<u32>,
    reserved: usize,
}

impl BlockTable {
    /// The blocks taken so far.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Takes blocks until `tokens` tokens fit. Returns whether the reservation allowed it.
    #[must_use]
    pub fn grow(&mut self, tokens: usize) -> bool {
        let missing = tokens.div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len());
        if missing > self.reserved {
            return false;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..missing {
            let Some(block) = free.blocks.pop() else { return false };
            free.reserved -= 1;
            self.reserved -= 1;
            self.blocks.push(block);
        }
        true
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.reserved -= self.reserved;
        free.blocks.extend(self.blocks.drain(..).rev());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(usize),
        Grow(usize, usize),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..400).prop_map(Step::Arrive),
            (any::<usize>(), 1usize..450).prop_map(|(who, tokens)| Step::Grow(who, tokens)),
            any::<usize>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// Whatever comes and goes: no block has two owners, a reservation is always honoured and never exceeded, and
        /// in the end every block is back.
        #[test]
        fn blocks_are_owned_once_and_all_come_back(steps in prop::collection::vec(step(), 0..200), total in 1u32..40) {
            let pool = BlockPool::new(total);
            let mut live: Vec<(BlockTable, usize)> = Vec::new();
            for step in steps {
                match step {
                    Step::Arrive(tokens) => {
                        let promised: usize = live.iter().map(|(_, limit)| limit.div_ceil(BLOCK_TOKENS)).sum();
                        let fits = promised + tokens.div_ceil(BLOCK_TOKENS) <= total as usize;
                        let table = pool.reserve(tokens);
                        prop_assert_eq!(table.is_some(), fits);
                        live.extend(table.map(|table| (table, tokens)));
                    }
                    Step::Grow(who, tokens) if !live.is_empty() => {
                        let who = who % live.len();
                        let (table, limit) = &mut live[who];
                        let within = tokens.div_ceil(BLOCK_TOKENS) <= limit.div_ceil(BLOCK_TOKENS);
                        prop_assert_eq!(table.grow(tokens), within);
                        prop_assert!(!within || table.blocks().len() * BLOCK_TOKENS >= tokens);
                    }
                    Step::Leave(who) if !live.is_empty() => {
                        let who = who % live.len();
                        live.swap_remove(who);
                    }
                    Step::Grow(..) | Step::Leave(_) => {}
                }
                let owned: Vec<u32> = live.iter().flat_map(|(table, _)| table.blocks()).copied().collect();
                prop_assert_eq!(owned.iter().collect::<HashSet<_>>().len(), owned.len());
                prop_assert!(owned.iter().all(|block| *block < total));
            }
            drop(live);
            prop_assert_eq!(pool.available(), total as usize);
        }
    }
}
