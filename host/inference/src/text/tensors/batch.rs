//! A step as a device computes it: rows sorted, tables padded, everything that the host knows in a few arrays.
//!
//! Spans of one token come first, and as many of them as fit into the scratch memory are one group: one gather, two
//! products. A longer span is a group of its own, or several where the scores of all its tokens would be too many. What
//! a group gathers beyond the tokens that a sequence has is never read as such: see [`super::network`].

use std::ops::Range;

use host_kernels::kv::BLOCK_TOKENS;

use super::cache::Blocks;
use crate::text::forward::{ForwardError, Span};

/// Bytes that the keys, values or scores of one group may take.
pub(super) const SCRATCH: usize = 256 << 20;

/// Sequences that are attended to together, each with equally many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Its rows: of the first sequence, then of the second, and so on.
    pub(super) rows: Range<usize>,
    /// How many sequences.
    pub(super) sequences: usize,
    /// Blocks in a table.
    pub(super) blocks: usize,
    /// The tables, one behind the other.
    pub(super) tables: Vec<u32>,
}

/// The same sequences without groups, as kernels take them that need no rectangle.
#[cfg(any(feature = "flash-attn", test))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ragged {
    /// The first row of each sequence, and the number of rows.
    pub(super) starts: Vec<u32>,
    /// For each sequence the tokens of those before it that are in the cache, and the tokens of all.
    pub(super) ends: Vec<u32>,
    /// Blocks in a table.
    pub(super) blocks: usize,
    /// The tables, one behind the other.
    pub(super) tables: Vec<u32>,
    /// The most rows that one sequence has.
    pub(super) rows: usize,
}

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// The token of each row.
    pub(super) tokens: Vec<u32>,
    /// The position of each row. Below 2^24, so that float32 holds it.
    pub(super) positions: Vec<f32>,
    /// Where the keys and values of each row go: block · 32 + place.
    pub(super) slots: Vec<u32>,
    /// The rows whose logits are wanted, in the order of their spans.
    pub(super) wanted: Vec<u32>,
    /// All rows, in order.
    pub(super) groups: Vec<Group>,
    /// The block that pads tables.
    pub(super) spare: u32,
}

impl Batch {
    /// Sorts `spans`.
    ///
    /// # Errors
    /// When a span is empty, has a token beyond `vocabulary` or reaches beyond its blocks or the cache.
    pub(super) fn of(spans: &[Span<'_>], vocabulary: usize, cache: &Blocks) -> Result<Self, ForwardError> {
        for span in spans {
            span.check(vocabulary, cache.count)?;
            if span.adapter.is_some() {
                return Err(ForwardError::Batch("an adapter, which tensors do not apply".into()));
            }
        }
        let mut order: Vec<usize> = (0..spans.len()).collect();
        // Stable, and short tables beside short ones, so that little is padded.
        order.sort_by_key(|i| (spans[*i].tokens.len() > 1, blocks(&spans[*i], spans[*i].tokens.len())));
        let rows = spans.iter().map(|span| span.tokens.len()).sum();
        let mut batch = Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            slots: Vec::with_capacity(rows),
            wanted: Vec::new(),
            groups: Vec::new(),
            spare: cache.spare(),
        };
        let mut ends = vec![0; spans.len()];
        for i in order {
            batch.push(&spans[i], cache);
            ends[i] = batch.tokens.len();
        }
        let wanted = spans.iter().zip(ends).flat_map(|(span, end)| end - span.logits..end);
        batch.wanted = wanted.map(|row| row as u32).collect();
        Ok(batch)
    }

    /// Adds the rows of one span.
    fn push(&mut self, span: &Span<'_>, cache: &Blocks) {
        let first = self.tokens.len();
        self.tokens.extend_from_slice(span.tokens);
        for position in span.position..span.position + span.tokens.len() {
            self.positions.push(position as f32);
            self.slots
                .push(span.blocks[position / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32);
        }
        if span.tokens.len() == 1 {
            self.push_decoding(span, first, cache);
            return;
        }
        let blocks = blocks(span, span.tokens.len());
        // Scores are float32 and the largest thing of a long span.
        let row = cache.heads * blocks * BLOCK_TOKENS * size_of::<f32>();
        let at_once = (SCRATCH / row).max(1);
        let mut start = first;
        while start < self.tokens.len() {
            let end = (start + at_once).min(self.tokens.len());
            let tables = span.blocks[..blocks].to_vec();
            self.groups.push(Group { rows: start..end, sequences: 1, blocks, tables });
            start = end;
        }
    }

    fn push_decoding(&mut self, span: &Span<'_>, row: usize, cache: &Blocks) {
        let blocks = blocks(span, 1);
        let of_block = cache.layer_bytes;
        match self.groups.last_mut() {
            // Spans come by their number of blocks, so the last one's is what all are padded to.
            Some(group) if (group.sequences + 1) * blocks * of_block <= SCRATCH => {
                pad(group, blocks, self.spare);
                group.rows.end = row + 1;
                group.sequences += 1;
                group.tables.extend_from_slice(&span.blocks[..blocks]);
            }
            _ => {
                let tables = span.blocks[..blocks].to_vec();
                self.groups.push(Group { rows: row..row + 1, sequences: 1, blocks, tables });
            }
        }
    }

    /// Whether every sequence has one row and wants its logits: what a recorded step computes. Gives the blocks of its
    /// tables.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn decoding(&self) -> Option<usize> {
        match self.groups.as_slice() {
            [group] if group.sequences == self.tokens.len() && self.wanted.len() == self.tokens.len() => {
                Some(group.blocks)
            }
            _ => None,
        }
    }

    /// The sequences one by one. Rows of a long span that are in several groups count as a sequence for each.
    #[cfg(any(feature = "flash-attn", test))]
    pub(super) fn ragged(&self) -> Ragged {
        let blocks = self.groups.iter().map(|group| group.blocks).max().unwrap_or(1);
        let mut ragged = Ragged { starts: vec![0], ends: vec![0], blocks, tables: Vec::new(), rows: 0 };
        let (mut row, mut end) = (0, 0);
        for group in &self.groups {
            let rows = group.rows.len() / group.sequences;
            ragged.rows = ragged.rows.max(rows);
            for table in group.tables.chunks_exact(group.blocks) {
                row += rows;
                end += self.positions[row - 1] as u32 + 1;
                ragged.starts.push(row as u32);
                ragged.ends.push(end);
                ragged.tables.extend_from_slice(table);
                ragged.tables.resize(ragged.tables.len() + blocks - group.blocks, self.spare);
            }
        }
        ragged
    }

    /// The same step with `sequences` sequences of `blocks` blocks, the further ones writing to the spare block and reading
    /// nothing else. Only of a step that is [`Self::decoding`].
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn padded(&self, sequences: usize, blocks: usize) -> Self {
        let (mut batch, spare) = (self.clone(), self.spare);
        let further = sequences.saturating_sub(self.tokens.len());
        batch.tokens.extend(std::iter::repeat_n(0, further));
        batch.positions.extend(std::iter::repeat_n(0.0, further));
        batch.slots.extend(std::iter::repeat_n(spare * BLOCK_TOKENS as u32, further));
        for group in &mut batch.groups {
            pad(group, blocks, spare);
            group.rows.end = batch.tokens.len();
            group.sequences = batch.tokens.len();
            group.tables.resize(group.sequences * group.blocks, spare);
        }
        batch
    }
}

/// Makes the tables of `group` at least `blocks` long.
fn pad(group: &mut Group, blocks: usize, spare: u32) {
    if blocks <= group.blocks {
        return;
    }
    let mut tables = Vec::with_capacity(group.sequences * blocks);
    for table in group.tables.chunks_exact(group.blocks) {
        tables.extend_from_slice(table);
        tables.resize(tables.len() + blocks - group.blocks, spare);
    }
    group.tables = tables;
    group.blocks = blocks;
}

/// Blocks that hold what the first `tokens` tokens of a span see.
fn blocks(span: &Span<'_>, tokens: usize) -> usize {
    (span.position + tokens).div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::text::tensors::attention::Constants;

    fn blocks(heads: usize) -> Blocks {
        let constants = Constants::new(4096, 40, &Device::Cpu).unwrap();
        Blocks { count: 40, layers: Vec::new(), constants, layer_bytes: 32 * 2 * 16, heads }
    }

    fn span<'a>(tokens: &'a [u32], position: usize, blocks: &'a [u32], logits: bool) -> Span<'a> {
        Span { tokens, position, blocks, logits: usize::from(logits), adapter: None }
    }

    #[test]
    fn decoding_spans_come_first_and_share_a_group() {
        let spans = [
            span(&[1, 2, 3], 31, &[9, 4], false),
            span(&[5], 40, &[7, 8], true),
            span(&[6], 0, &[3, 2], true),
            span(&[8, 9], 0, &[1], true),
        ];
        let batch = Batch::of(&spans, 10, &blocks(4)).unwrap();
        assert_eq!(batch.tokens, [6, 5, 8, 9, 1, 2, 3]);
        assert_eq!(batch.positions, [0.0, 40.0, 0.0, 1.0, 31.0, 32.0, 33.0]);
        assert_eq!(batch.slots, [96, 8 * 32 + 8, 32, 33, 9 * 32 + 31, 4 * 32, 4 * 32 + 1]);
        assert_eq!(batch.wanted, [1, 0, 3], "in the order of the spans");
        let group =
            |rows, sequences, blocks, tables: &[u32]| Group { rows, sequences, blocks, tables: tables.to_vec() };
        // The first table has one block in use, and is padded with the spare one.
        let expected = [group(0..2, 2, 2, &[3, 40, 7, 8]), group(2..4, 1, 1, &[1]), group(4..7, 1, 2, &[9, 4])];
        assert_eq!(batch.groups, expected);
        assert_eq!(batch.decoding(), None);
        let tables = vec![3, 40, 7, 8, 1, 40, 9, 4];
        let ragged = Ragged { starts: vec![0, 1, 2, 4, 7], ends: vec![0, 1, 42, 44, 78], blocks: 2, tables, rows: 3 };
        assert_eq!(batch.ragged(), ragged);
    }

    #[test]
    fn what_would_need_too_much_memory_is_split() {
        let table: Vec<u32> = (0..32).collect();
        let tokens = vec![1; 1000];
        // 1024 scores of 1024 heads of 4 bytes: 4 MiB a row, 64 rows at once.
        let batch = Batch::of(&[span(&tokens, 0, &table, true)], 10, &blocks(1024)).unwrap();
        assert_eq!(batch.groups.len(), 16);
        assert!(batch.groups.iter().all(|group| group.rows.len() <= 64 && group.blocks == 32 && group.sequences == 1));
        assert_eq!(batch.groups.last().unwrap().rows, 960..1000);
        let few = Blocks { layer_bytes: 3 << 20, ..blocks(4) };
        // 96 MiB of keys each: two sequences at once.
        let spans = [span(&[1], 1000, &table, true); 5];
        let batch = Batch::of(&spans, 10, &few).unwrap();
        assert_eq!(batch.groups.iter().map(|group| group.rows.clone()).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
        assert_eq!(batch.decoding(), None, "not in one group");
    }

    #[test]
    fn padding_adds_sequences_that_touch_the_spare_block_alone() {
        let spans = [span(&[5], 40, &[7, 8], true), span(&[6], 0, &[3], true)];
        let batch = Batch::of(&spans, 10, &blocks(4)).unwrap();
        assert_eq!(batch.decoding(), Some(2));
        let padded = batch.padded(4, 3);
        assert_eq!(padded.tokens, [6, 5, 0, 0]);
        assert_eq!(padded.slots[2..], [40 * 32, 40 * 32]);
        assert_eq!(padded.wanted, [1, 0], "as before: the further rows are nobody's");
        let tables = vec![3, 40, 40, 7, 8, 40, 40, 40, 40, 40, 40, 40];
        assert_eq!(padded.groups, [Group { rows: 0..4, sequences: 4, blocks: 3, tables }]);
    }

    #[test]
    fn spans_that_cannot_be_computed_are_refused() {
        for (span, fault) in [
            (span(&[], 0, &[0], true), "0 tokens"),
            (span(&[1, 2], 31, &[0], true), "room for 32"),
            (span(&[1], usize::MAX, &[0], true), "room for 32"),
            (span(&[10], 0, &[0], true), "token 10"),
            (span(&[1], 0, &[40], true), "block 40"),
        ] {
            let error = Batch::of(&[span], 10, &blocks(4)).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }
}
