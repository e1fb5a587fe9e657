//! What bindings are backed by: the state of a project, from which each worker's bindings are made.

use std::sync::Arc;

use host_config::Binding;
use host_state::Directory;

use crate::Callable;

/// What a project's bindings keep their data in. One for all of its workers, which may share an index or a queue.
#[derive(Clone)]
pub struct Resources {
    state: Directory,
}

impl Resources {
    /// Resources that keep their data in `state`.
    pub fn new(state: Directory) -> Self {
        Self { state }
    }

    /// The directory of the state.
    pub fn state(&self) -> &Directory {
        &self.state
    }

    /// What answers the methods of a binding, if it is one that is called by method.
    pub(crate) fn callable(&self, _binding: &Binding) -> Option<Arc<dyn Callable>> {
        None
    }
}
