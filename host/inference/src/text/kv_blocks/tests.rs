use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn root(tenant: u8) -> Root {
    Root { tenant: if tenant.is_multiple_of(2) { "a".into() } else { "b".into() }, salt: u64::from(tenant / 2) }
}

/// A sequence as the pool's users are: it writes what it computes and reads it back through its table.
struct Reader {
    root: u8,
    tokens: Vec<u32>,
    computed: usize,
    table: BlockTable,
}

impl Reader {
    fn new(pool: &BlockPool, root_number: u8, tokens: Vec<u32>) -> Self {
        let mut table = pool.table(root(root_number));
        table.share(&tokens);
        Self { root: root_number, tokens, computed: table.shared_tokens(), table }
    }

    /// Takes over a part of a block by copying it, where there is one and room for its copy.
    fn copy_alike(&mut self, memory: &mut [Option<(u8, u64)>]) {
        let Some(alike) = self.table.alike(&self.tokens) else { return };
        if !self.table.grow(self.computed + alike.tokens) {
            return;
        }
        let (from, to) = (alike.block as usize * BLOCK_TOKENS, place(&self.table, self.computed));
        memory.copy_within(from..from + BLOCK_TOKENS, to);
        self.computed += alike.tokens;
        assert!(self.computed < self.tokens.len());
    }

    /// Computes up to `count` more tokens. False if there was no room.
    fn compute(&mut self, count: usize, memory: &mut [Option<(u8, u64)>]) -> bool {
        let end = self.tokens.len().min(self.computed + count);
        if !self.table.grow(end) {
            return false;
        }
        for position in self.computed..end {
            memory[place(&self.table, position)] = Some((self.root, digest(&self.tokens[..=position])));
        }
        self.computed = end;
        self.table.register(&self.tokens, end);
        true
    }

    fn written(&self) -> &[u32] {
        &self.table.blocks()[self.table.shared_tokens() / BLOCK_TOKENS..]
    }
}

/// Keys and values depend on all tokens so far.
fn digest(tokens: &[u32]) -> u64 {
    tokens.iter().fold(7, |hash, token| (hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

fn place(table: &BlockTable, position: usize) -> usize {
    table.blocks()[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

#[derive(Debug, Clone)]
enum Step {
    Arrive { root: u8, parts: Vec<u8>, tail: usize },
    Compute(usize, usize),
    Share(usize),
    Extend(usize, u8),
    Leave(usize),
    Discard(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let arrive = (0u8..3, prop::collection::vec(0u8..2, 0..4), 1usize..40);
    prop_oneof![
        3 => arrive.prop_map(|(root, parts, tail)| Step::Arrive { root, parts, tail }),
        6 => (any::<usize>(), 1usize..70).prop_map(|(who, count)| Step::Compute(who, count)),
        1 => any::<usize>().prop_map(Step::Share),
        2 => (any::<usize>(), 0u8..2).prop_map(|(who, part)| Step::Extend(who, part)),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::Discard),
    ]
}

/// Tokens out of few parts, so that sequences often begin alike.
fn part(number: u8) -> impl Iterator<Item = u32> {
    (0..BLOCK_TOKENS as u32).map(move |i| u32::from(number) * 100 + i)
}

proptest! {
    /// Whatever comes and goes: a sequence reads through its table what was computed for its own tokens under its own
    /// root, nobody else holds a block that is being written, and in the end no block is held.
    #[test]
    fn tables_hold_what_was_computed_for_their_tokens(steps in prop::collection::vec(step(), 0..120), total in 1u32..24) {
        let pool = BlockPool::new(total);
        let mut memory = vec![None; total as usize * BLOCK_TOKENS];
        let mut live: Vec<Reader> = Vec::new();
        for step in steps {
            match step {
                Step::Arrive { root, parts, tail } => {
                    let tokens = parts.into_iter().flat_map(part).chain(part(0).take(tail)).collect();
                    live.push(Reader::new(&pool, root, tokens));
                    let reader = live.last_mut().unwrap();
                    reader.copy_alike(&mut memory);
                    prop_assert!(reader.computed < reader.tokens.len());
                }
                Step::Extend(who, number) if !live.is_empty() => {
                    let who = who % live.len();
                    live[who].tokens.extend(part(number));
                }
                Step::Compute(who, count) if !live.is_empty() => {
                    let who = who % live.len();
                    let missing = live[who].tokens.len().min(live[who].computed + count).div_ceil(BLOCK_TOKENS);
                    let fits = missing.saturating_sub(live[who].table.blocks().len()) <= pool.available();
                    prop_assert_eq!(live[who].compute(count, &mut memory), fits);
                }
                Step::Share(who) if !live.is_empty() => {
                    let who = who % live.len();
                    let reader = &mut live[who];
                    if reader.computed == reader.table.shared_tokens() {
                        reader.table.share(&reader.tokens);
                        reader.computed = reader.table.shared_tokens();
                    }
                }
                Step::Leave(who) if !live.is_empty() => {
                    let who = who % live.len();
                    live.swap_remove(who);
                }
                Step::Discard(who) if !live.is_empty() => {
                    let who = who % live.len();
                    let mut reader = live.swap_remove(who);
                    reader.table.discard();
                    prop_assert!(reader.table.blocks().is_empty());
                }
                _ => {}
            }
            for (i, reader) in live.iter().enumerate() {
                for position in 0..reader.computed {
                    let found = memory[place(&reader.table, position)];
                    prop_assert_eq!(found, Some((reader.root, digest(&reader.tokens[..=position]))));
                }
                for other in live.iter().skip(i + 1) {
                    let theirs: HashSet<&u32> = other.table.blocks().iter().collect();
                    prop_assert!(reader.written().iter().all(|block| !theirs.contains(block)));
                    let ours: HashSet<&u32> = reader.table.blocks().iter().collect();
                    prop_assert!(other.written().iter().all(|block| !ours.contains(block)));
                }
            }
            let held: HashSet<u32> = live.iter().flat_map(|reader| reader.table.blocks()).copied().collect();
            prop_assert_eq!(pool.available() + held.len(), total as usize);
        }
        drop(live);
        prop_assert_eq!(pool.available(), total as usize);
    }
}

fn tokens(parts: &[u8], tail: usize) -> Vec<u32> {
    parts.iter().flat_map(|number| part(*number)).chain(part(9).take(tail)).collect()
}

#[test]
fn a_chain_is_shared_up_to_the_last_token() {
    let pool = BlockPool::new(16);
    let mut memory = vec![None; 16 * BLOCK_TOKENS];
    let mut first = Reader::new(&pool, 0, tokens(&[1, 2, 3], 5));
    assert!(first.compute(200, &mut memory));
    for (asked, shared) in [(tokens(&[1, 2, 3], 1), 3), (tokens(&[1, 2, 3], 0), 2), (tokens(&[1, 9, 3], 1), 1)] {
        let reader = Reader::new(&pool, 0, asked);
        assert_eq!(reader.table.shared_tokens(), shared * BLOCK_TOKENS);
        assert_eq!(reader.table.blocks(), &first.table.blocks()[..shared]);
    }
    // The same block after another one, another tenant and another adapter share nothing.
    for (root, asked) in [(0, tokens(&[2, 3], 1)), (1, tokens(&[1, 2], 1)), (2, tokens(&[1, 2], 1))] {
        assert_eq!(Reader::new(&pool, root, asked).table.shared_tokens(), 0);
    }
    drop(first);
    assert_eq!((pool.available(), pool.reusable()), (16, 3));
    assert_eq!(Reader::new(&pool, 0, tokens(&[1, 2, 3], 1)).computed, 3 * BLOCK_TOKENS);
}

#[test]
fn what_was_unused_longest_goes_first_and_from_the_end() {
    let pool = BlockPool::new(4);
    let mut memory = vec![None; 4 * BLOCK_TOKENS];
    for parts in [[1, 2], [3, 4]] {
        assert!(Reader::new(&pool, 0, tokens(&parts, 0)).compute(200, &mut memory));
    }
    assert_eq!(pool.reusable(), 4);
    // A use of the older chain makes the other one the oldest.
    drop(Reader::new(&pool, 0, tokens(&[1, 2], 1)));
    assert!(Reader::new(&pool, 0, tokens(&[5], 0)).compute(200, &mut memory));
    let known = |parts: &[u8]| Reader::new(&pool, 0, tokens(parts, 1)).table.shared_tokens() / BLOCK_TOKENS;
    assert_eq!((known(&[1, 2]), known(&[3, 4]), known(&[5])), (2, 1, 1));
}

#[test]
fn the_same_computed_twice_is_held_once() {
    let pool = BlockPool::new(8);
    let mut memory = vec![None; 8 * BLOCK_TOKENS];
    let mut twins = [0, 1].map(|_| Reader::new(&pool, 0, tokens(&[1, 2], 3)));
    for _ in 0..5 {
        for twin in &mut twins {
            assert!(twin.compute(16, &mut memory));
        }
    }
    assert_eq!(twins[0].table.blocks()[..2], twins[1].table.blocks()[..2]);
    assert_eq!(pool.available(), 8 - 4);
}

#[test]
fn what_was_discarded_is_not_found_again() {
    let pool = BlockPool::new(8);
    let mut memory = vec![None; 8 * BLOCK_TOKENS];
    let mut faulty = Reader::new(&pool, 0, tokens(&[1, 2], 1));
    assert!(faulty.compute(200, &mut memory));
    let other = Reader::new(&pool, 0, tokens(&[1], 1));
    faulty.table.discard();
    assert_eq!((pool.available(), pool.reusable()), (7, 0));
    assert_eq!(Reader::new(&pool, 0, tokens(&[1, 2], 1)).computed, BLOCK_TOKENS, "what another holds stays");
    drop(other);
}

#[test]
fn chains_that_part_inside_a_block_share_its_beginning() {
    let pool = BlockPool::new(16);
    let mut memory = vec![None; 16 * BLOCK_TOKENS];
    let parted = |same: usize| -> Vec<u32> { part(1).chain(part(2).take(same)).chain(part(7).take(40)).collect() };
    for tokens in [tokens(&[1, 2], 0), parted(4)] {
        assert!(Reader::new(&pool, 0, tokens).compute(200, &mut memory));
    }
    let alike = |root, tokens: Vec<u32>| {
        let reader = Reader::new(&pool, root, tokens.clone());
        reader.table.alike(&tokens).map_or(0, |alike| alike.tokens)
    };
    assert_eq!(alike(0, part(1).chain(part(2).take(10)).chain(part(5)).collect()), 10);
    // The last token is not counted, one of a chain of its own has nothing to take, nor another tenant.
    assert_eq!(alike(0, part(1).chain(part(2).take(10)).collect()), 9);
    assert_eq!((alike(0, tokens(&[5], 0)), alike(1, tokens(&[1, 3], 0))), (0, 0));
    let mut reader = Reader::new(&pool, 0, part(1).chain(part(2).take(10)).chain(part(5)).collect());
    reader.copy_alike(&mut memory);
    assert!(reader.computed == BLOCK_TOKENS + 10 && reader.compute(200, &mut memory));
}
