//! What bindings are backed by: the state of a project, from which each worker's bindings are made.

use std::sync::Arc;

use host_config::Binding;
use host_queues::Queues;
use host_state::Directory;
use host_vectorize::Indexes;

use crate::Callable;
use crate::queue::Producer;
use crate::vectorize::VectorIndex;

/// What a project's bindings keep their data in. One for all of its workers, which may share an index or a queue.
#[derive(Clone)]
pub struct Resources {
    state: Directory,
    queues: Queues,
    indexes: Indexes,
}

impl Resources {
    /// Resources that keep their data in `state`.
    pub fn new(state: Directory) -> Self {
        Self { indexes: Indexes::new(state.clone()), queues: Queues::new(state.clone()), state }
    }

    /// The directory of the state.
    pub fn state(&self) -> &Directory {
        &self.state
    }

    /// The queues.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// What answers the methods of a binding, if it is one that is called by method.
    pub(crate) fn callable(&self, binding: &Binding) -> Option<Arc<dyn Callable>> {
        match binding {
            Binding::Queue { queue, delivery_delay } => {
                // The binding file has no other names.
                let queue = self.queues.queue(queue).ok()?;
                Some(Arc::new(Producer::new(queue, *delivery_delay)))
            }
            Binding::Vectorize { index, create } => {
                Some(Arc::new(VectorIndex::new(self.indexes.clone(), index, create.as_ref())))
            }
            _ => None,
        }
    }

    /// The vector indexes of the state.
    pub fn indexes(&self) -> &Indexes {
        &self.indexes
    }
}
