//! A navigable small world in layers (HNSW; Malkov and Yashunin 2016, algorithms 1 to 5) over the vectors of a space.
//!
//! It is our own because of what it has to do at once: grow while it is searched without a lock that a search would wait
//! for, find only what a set accepts without searching for it afterwards, take deletions, and be safe whatever is asked;
//! and because it is what searches spend their time in.
//!
//! It grows by batches. [`Graph::plan`] only reads: it looks for the neighbours of all new slots at the same time, among
//! the old slots by searching and among each other by comparing, then works out which lists change. [`Graph::apply`]
//! writes the lists, which takes no time worth speaking of, so that whoever holds a lock around both holds the writing
//! one for a moment only. The result depends on the order of slots alone.
//!
//! Slots are never taken out: a search walks over what was deleted and does not return it. The owner makes a new graph
//! when much is dead.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::metric::{Near, Space};

/// Neighbours that a new slot is linked to in each layer.
const LINKS: usize = 16;
/// Neighbours that a slot has at most: in the lowest layer, and above.
const MOST: [usize; 2] = [32, 16];
/// Candidates among which neighbours are chosen.
const BREADTH: usize = 128;
/// Slots of a batch.
const BATCH: usize = 256;
/// Layers above the lowest; with one in 16 going up, no index fills them.
const TOP: usize = 8;

/// Lists of neighbours by layer. Slots are those of a [`Space`].
#[derive(Default)]
pub(crate) struct Graph {
    /// The lowest layer: for each slot room for as many as it may have, and how many it has.
    lowest: Vec<u32>,
    counts: Vec<u8>,
    /// The layers above, for those slots that are in them.
    upper: HashMap<u32, Vec<Vec<u32>>>,
    /// Where searches begin, and its layer.
    entry: Option<(u32, usize)>,
    scratch: Mutex<Vec<Scratch>>,
}

/// What one search needs, kept for the next.
#[derive(Default)]
struct Scratch {
    /// The number of the search that last met a slot.
    met: Vec<u32>,
    search: u32,
    near: Vec<u32>,
}

/// Lists to write: layer, slot, neighbours.
pub(crate) struct Plan {
    slots: Range<u32>,
    lists: Vec<(usize, u32, Vec<u32>)>,
}

fn most(layer: usize) -> usize {
    MOST[layer.min(1)]
}

/// The highest layer of a slot: one in 16 goes up a layer, by a hash of its number, so that graphs are reproducible.
fn layer_of(slot: u32) -> usize {
    let mut bits = u64::from(slot).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits.leading_zeros() as usize / 4).min(TOP)
}

impl Graph {
    /// How many slots are in it: all below that number.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    fn neighbours(&self, layer: usize, slot: u32) -> &[u32] {
        if layer == 0 {
            let start = slot as usize * MOST[0];
            return &self.lowest[start..start + usize::from(self.counts[slot as usize])];
        }
        self.upper.get(&slot).and_then(|layers| layers.get(layer - 1)).map_or(&[], Vec::as_slice)
    }

    /// The `count` nearest of those that `accept` lets through, nearest first, looking at `breadth` of them.
    pub(crate) fn search(
        &self,
        space: &Space,
        query: &[f32],
        count: usize,
        breadth: usize,
        accept: impl Fn(u32) -> bool,
    ) -> Vec<Near> {
        let Some((entry, top)) = self.entry else { return Vec::new() };
        let mut scratch = self.take_scratch();
        let mut from = Near { distance: space.distance(query, entry), slot: entry };
        for layer in (1..=top).rev() {
            from = self.descend(space, query, from, layer);
        }
        let mut found = self.search_layer(space, query, from, 0, breadth.max(count), &accept, &mut scratch);
        self.give_scratch(scratch);
        found.truncate(count);
        found
    }

    fn take_scratch(&self) -> Scratch {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        scratch.met.resize(self.len(), 0);
        scratch
    }

    fn give_scratch(&self, scratch: Scratch) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    /// The nearest that steps to nearer neighbours lead to.
    fn descend(&self, space: &Space, query: &[f32], mut from: Near, layer: usize) -> Near {
        loop {
            let neighbours = self.neighbours(layer, from.slot).iter();
            let near = neighbours.map(|slot| Near { distance: space.distance(query, *slot), slot: *slot }).min();
            match near {
                Some(near) if near.distance < from.distance => from = near,
                _ => return from,
            }
        }
    }

    /// The nearest accepted slots of a layer, nearest first: at most `breadth`.
    #[allow(clippy::too_many_arguments)]
    fn search_layer(
        &self,
        space: &Space,
        query: &[f32],
        from: Near,
        layer: usize,
        breadth: usize,
        accept: &impl Fn(u32) -> bool,
        scratch: &mut Scratch,
    ) -> Vec<Near> {
        scratch.search = scratch.search.wrapping_add(1);
        if scratch.search == 0 {
            scratch.met.fill(0);
            scratch.search = 1;
        }
        let Scratch { met, search, near } = scratch;
        met[from.slot as usize] = *search;
        let mut open = BinaryHeap::from([Reverse(from)]);
        let mut found = BinaryHeap::with_capacity(breadth + 1);
        if accept(from.slot) {
            found.push(from);
        }
        while let Some(Reverse(next)) = open.pop() {
            let worst =
                found.peek().filter(|_| found.len() >= breadth).map_or(f32::INFINITY, |far: &Near| far.distance);
            if next.distance > worst {
                break;
            }
            near.clear();
            for slot in self.neighbours(layer, next.slot) {
                let met = &mut met[*slot as usize];
                if *met != *search {
                    *met = *search;
                    near.push(*slot);
                }
            }
            for slot in near.iter().copied() {
                let near = Near { distance: space.distance(query, slot), slot };
                let full = found.len() >= breadth;
                if full && found.peek().is_some_and(|far| near.distance >= far.distance) {
                    continue;
                }
                open.push(Reverse(near));
                if accept(slot) {
                    found.push(near);
                    if full {
                        found.pop();
                    }
                }
            }
        }
        found.into_sorted_vec()
    }

    /// What would add the next slots of the space, a batch at most; nothing when there are none.
    pub(crate) fn plan(&self, space: &Space) -> Option<Plan> {
        let start = self.len();
        // A batch is small beside what is there: its slots find each other by comparing all pairs.
        let end = space.len().min(start + BATCH);
        if start == end {
            return None;
        }
        let slots = start as u32..end as u32;
        let chosen: Vec<Vec<Vec<Near>>> =
            slots.clone().into_par_iter().map(|slot| self.choose(space, slot, slots.clone())).collect();
        let mut links = Vec::new();
        let mut lists = HashMap::new();
        for (slot, layers) in slots.clone().zip(chosen) {
            for (layer, near) in layers.into_iter().enumerate() {
                links.extend(near.iter().map(|to| (layer, to.slot, slot)));
                lists.insert((layer, slot), near.into_iter().map(|to| to.slot).collect::<Vec<u32>>());
            }
        }
        links.sort_unstable();
        let groups: Vec<&[(usize, u32, u32)]> =
            links.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)).collect();
        let relinked: Vec<(usize, u32, Vec<u32>)> = groups
            .into_par_iter()
            .filter_map(|group| {
                let (layer, slot, _) = *group.first()?;
                let old = lists.get(&(layer, slot)).map_or_else(|| self.neighbours(layer, slot), Vec::as_slice);
                Some((layer, slot, relink(space, layer, slot, old, group)))
            })
            .collect();
        for (layer, slot, list) in relinked {
            lists.insert((layer, slot), list);
        }
        Some(Plan { slots, lists: lists.into_iter().map(|((layer, slot), list)| (layer, slot, list)).collect() })
    }

    /// The neighbours of a new slot by layer, lowest first, among the old ones and those that come with it.
    fn choose(&self, space: &Space, slot: u32, batch: Range<u32>) -> Vec<Vec<Near>> {
        let query = space.vector(slot);
        let top = layer_of(slot);
        let mates: Vec<Near> = batch
            .filter(|mate| *mate != slot)
            .map(|mate| Near { distance: space.distance(query, mate), slot: mate })
            .collect();
        let mut layers = vec![Vec::new(); top + 1];
        let mut from = None;
        if let Some((entry, entry_layer)) = self.entry {
            let mut near = Near { distance: space.distance(query, entry), slot: entry };
            for layer in (top + 1..=entry_layer).rev() {
                near = self.descend(space, query, near, layer);
            }
            from = Some((near, entry_layer));
        }
        let mut scratch = self.take_scratch();
        for layer in (0..=top).rev() {
            let mut candidates = match from {
                Some((near, entry_layer)) if layer <= entry_layer => {
                    let found = self.search_layer(space, query, near, layer, BREADTH, &|_| true, &mut scratch);
                    from = found.first().map(|nearest| (*nearest, entry_layer)).or(from);
                    found
                }
                _ => Vec::new(),
            };
            candidates.extend(mates.iter().filter(|mate| layer_of(mate.slot) >= layer));
            candidates.sort_unstable();
            candidates.truncate(BREADTH);
            layers[layer] = spread(space, candidates, LINKS);
        }
        self.give_scratch(scratch);
        layers
    }

    /// Writes what was planned for this very graph.
    pub(crate) fn apply(&mut self, plan: Plan) {
        debug_assert_eq!(plan.slots.start as usize, self.len());
        self.counts.resize(plan.slots.end as usize, 0);
        self.lowest.resize(plan.slots.end as usize * MOST[0], 0);
        for (layer, slot, list) in plan.lists {
            if layer == 0 {
                let start = slot as usize * MOST[0];
                self.lowest[start..start + list.len()].copy_from_slice(&list);
                self.counts[slot as usize] = list.len() as u8;
            } else {
                let layers = self.upper.entry(slot).or_default();
                if layers.len() < layer {
                    layers.resize(layer, Vec::new());
                }
                layers[layer - 1] = list;
            }
        }
        for slot in plan.slots {
            if self.entry.is_none_or(|(_, top)| layer_of(slot) > top) {
                self.entry = Some((slot, layer_of(slot)));
            }
        }
    }
}

/// Those of `candidates`, which are sorted, that are nearer to the slot than to any that was chosen before: neighbours in
/// all directions rather than the nearest alone.
fn spread(space: &Space, candidates: Vec<Near>, count: usize) -> Vec<Near> {
    let mut chosen: Vec<Near> = Vec::with_capacity(count);
    for candidate in candidates {
        if chosen.len() == count {
            break;
        }
        let vector = space.vector(candidate.slot);
        if chosen.iter().all(|other| space.distance(vector, other.slot) >= candidate.distance) {
            chosen.push(candidate);
        }
    }
    chosen
}

/// The neighbours of a slot with the new ones that chose it.
fn relink(space: &Space, layer: usize, slot: u32, old: &[u32], group: &[(usize, u32, u32)]) -> Vec<u32> {
    let mut list = old.to_vec();
    for (_, _, from) in group {
        if !list.contains(from) {
            list.push(*from);
        }
    }
    if list.len() <= most(layer) {
        return list;
    }
    let vector = space.vector(slot);
    let mut candidates: Vec<Near> =
        list.into_iter().map(|slot| Near { distance: space.distance(vector, slot), slot }).collect();
    candidates.sort_unstable();
    spread(space, candidates, most(layer)).into_iter().map(|near| near.slot).collect()
}
