//! An index in memory: what searches look at.
//!
//! Slots are only ever added. A vector that is replaced or deleted leaves its slot dead; when much is dead the owner makes
//! another view. What is not in the graph yet is compared one by one, so that a search finds whatever was applied, and
//! building the graph may take its time.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use crate::error::VectorizeError;
use crate::graph::Graph;
use crate::metadata::{Property, PropertyKind};
use crate::metric::{Near, Space};
use crate::request::Options;

/// Slots below which nothing but comparing all is worth it.
const EXACT: usize = 4096;
/// Vectors that a search in the graph compares, roughly: what comparing all of a set is weighed against.
const SEARCHED: u64 = 3000;
/// Candidates that a search in the graph keeps, at least and for each match.
const BREADTH: [usize; 2] = [160, 4];

pub(crate) struct View {
    /// Tells a view from the one that it replaced.
    pub(crate) number: u64,
    /// The last mutation that is in it.
    pub(crate) applied: i64,
    pub(crate) space: Space,
    pub(crate) graph: Graph,
    ids: Vec<Arc<str>>,
    slots: HashMap<Arc<str>, u32>,
    live: RoaringBitmap,
    namespaces: BTreeMap<Box<str>, RoaringBitmap>,
    properties: Vec<Property>,
}

impl View {
    pub(crate) fn new(space: Space, number: u64) -> Self {
        Self {
            number,
            applied: 0,
            space,
            graph: Graph::default(),
            ids: Vec::new(),
            slots: HashMap::new(),
            live: RoaringBitmap::new(),
            namespaces: BTreeMap::new(),
            properties: Vec::new(),
        }
    }

    /// How many vectors there are.
    pub(crate) fn count(&self) -> u64 {
        self.live.len()
    }

    /// Whether so much is dead that another view is worth its making.
    pub(crate) fn is_stale(&self) -> bool {
        let (all, live) = (self.ids.len() as u64, self.live.len());
        all > EXACT as u64 && live * 3 < all * 2
    }

    /// Whether the graph has fewer slots than it should.
    pub(crate) fn is_behind(&self) -> bool {
        self.ids.len() > EXACT && self.graph.len() < self.ids.len()
    }

    pub(crate) fn id(&self, slot: u32) -> &str {
        &self.ids[slot as usize]
    }

    /// Puts a vector, which is prepared, in the place of the one with this id.
    pub(crate) fn put(
        &mut self,
        id: &str,
        vector: &[f32],
        namespace: Option<&str>,
        metadata: Option<&Map<String, Value>>,
    ) {
        self.remove(id);
        let slot = self.ids.len() as u32;
        let id: Arc<str> = id.into();
        self.space.push(vector);
        self.ids.push(id.clone());
        self.slots.insert(id, slot);
        self.live.insert(slot);
        if let Some(namespace) = namespace {
            match self.namespaces.get_mut(namespace) {
                Some(slots) => {
                    slots.insert(slot);
                }
                None => {
                    self.namespaces.insert(namespace.into(), RoaringBitmap::from([slot]));
                }
            }
        }
        for property in &mut self.properties {
            if let Some(metadata) = metadata {
                property.add(slot, metadata);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(slot) = self.slots.remove(id) {
            self.live.remove(slot);
        }
    }

    /// Whether these are the properties with a metadata index.
    pub(crate) fn has_properties(&self, properties: &[(String, PropertyKind)]) -> bool {
        self.properties.len() == properties.len()
            && self.properties.iter().zip(properties).all(|(had, (name, kind))| had.name == *name && had.kind == *kind)
    }

    /// Sets which properties have a metadata index. What vectors have of them is told by [`Self::index`].
    pub(crate) fn set_properties(&mut self, properties: &[(String, PropertyKind)]) {
        self.properties = properties.iter().map(|(name, kind)| Property::new(name.clone(), *kind)).collect();
    }

    /// Whether there is a metadata index.
    pub(crate) fn indexes_metadata(&self) -> bool {
        !self.properties.is_empty()
    }

    /// Adds the metadata of a vector to the metadata indexes.
    pub(crate) fn index(&mut self, id: &str, metadata: &Map<String, Value>) {
        if let Some(slot) = self.slots.get(id) {
            for property in &mut self.properties {
                property.add(*slot, metadata);
            }
        }
    }

    /// The nearest to `query`, which is prepared, nearest first.
    pub(crate) fn search(&self, query: &[f32], options: &Options, index: &str) -> Result<Vec<Near>, VectorizeError> {
        let count = options.top_k;
        let Some(allowed) = self.allowed(options, index)? else {
            return Ok(self.nearest(query, count, self.live.len(), |slot| self.live.contains(slot)));
        };
        if self.is_small(allowed.len()) {
            return Ok(exact(&self.space, query, count, allowed.iter()));
        }
        Ok(self.nearest(query, count, allowed.len(), |slot| allowed.contains(slot)))
    }

    /// The slots that a namespace and a filter leave; none where there is neither.
    fn allowed(&self, options: &Options, index: &str) -> Result<Option<RoaringBitmap>, VectorizeError> {
        let namespace = options.namespace.as_deref().map(|namespace| match self.namespaces.get(namespace) {
            Some(slots) => slots & &self.live,
            None => RoaringBitmap::new(),
        });
        let filtered = match &options.filter {
            Some(filter) => Some(filter.select(&self.properties, &self.live, index)?),
            None => None,
        };
        Ok(match (namespace, filtered) {
            (Some(namespace), Some(filtered)) => Some(namespace & filtered),
            (one, other) => one.or(other),
        })
    }

    /// Whether comparing `allowed` slots one by one costs less than finding them in the graph, whose search has to look at
    /// more slots the fewer of them are allowed.
    fn is_small(&self, allowed: u64) -> bool {
        let all = self.graph.len() as u64;
        all <= EXACT as u64 || allowed.saturating_mul(allowed) < SEARCHED.saturating_mul(all)
    }

    fn nearest(&self, query: &[f32], count: usize, allowed: u64, accept: impl Fn(u32) -> bool) -> Vec<Near> {
        let all = self.ids.len() as u32;
        if self.is_small(allowed) {
            return exact(&self.space, query, count, (0..all).filter(|slot| accept(*slot)));
        }
        let breadth = BREADTH[0].max(count * BREADTH[1]);
        let mut near = self.graph.search(&self.space, query, count, breadth, &accept);
        let rest = self.graph.len() as u32..all;
        near.extend(exact(&self.space, query, count, rest.filter(|slot| accept(*slot))));
        near.sort_unstable();
        near.truncate(count);
        near
    }
}

/// The nearest of `slots`, nearest first.
fn exact(space: &Space, query: &[f32], count: usize, slots: impl Iterator<Item = u32>) -> Vec<Near> {
    let mut found: BinaryHeap<Near> = BinaryHeap::with_capacity(count + 1);
    for slot in slots {
        let near = Near { distance: space.distance(query, slot), slot };
        if found.len() < count {
            found.push(near);
        } else if found.peek().is_some_and(|far| near < *far) {
            found.pop();
            found.push(near);
        }
    }
    found.into_sorted_vec()
}
