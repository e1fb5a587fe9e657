//! What is wrong with a request, in Vectorize's words and codes where they are known.

use host_state::StateError;

/// Why an operation on an index failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VectorizeError {
    /// The request is wrong: nothing of it was done.
    #[error("{message}")]
    Invalid {
        /// Vectorize's code for it, where it is known.
        code: Option<u32>,
        /// What is wrong, where.
        message: String,
    },
    /// There is no index of this name.
    #[error(
        "there is no vector index {name:?} in {directory}; create it with `host vectorize create {name} --dimensions=384 \
         --metric=cosine`, with the dimensions of the model whose vectors it is for"
    )]
    NoIndex {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: String,
    },
    /// There is an index of this name already.
    #[error("there is a vector index {name:?} already, of {dimensions} dimensions with the metric {metric}")]
    Exists {
        /// The name.
        name: String,
        /// Its dimensions.
        dimensions: usize,
        /// Its metric.
        metric: String,
    },
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl VectorizeError {
    /// A fault that Vectorize has no code for, or none that is known.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { code: None, message: message.into() }
    }

    pub(crate) fn coded(code: u32, message: impl Into<String>) -> Self {
        Self::Invalid { code: Some(code), message: message.into() }
    }
}

/// Codes that Vectorize answers with.
pub(crate) mod codes {
    /// A query's vector has other dimensions than the index.
    pub(crate) const QUERY_DIMENSIONS: u32 = 40006;
    /// Too many vectors or ids in one call.
    pub(crate) const TOO_MANY: u32 = 40007;
    /// An id that is empty or too long.
    pub(crate) const ID: u32 = 40008;
    /// A vector has other dimensions than the index.
    pub(crate) const VECTOR_DIMENSIONS: u32 = 40012;
    /// A key that metadata may not have.
    pub(crate) const METADATA_KEY: u32 = 40018;
    /// A vector that is none.
    pub(crate) const PARSE_VECTORS: u32 = 40023;
    /// More matches than are given.
    pub(crate) const TOP_K: u32 = 40025;
    /// A query that is none.
    pub(crate) const PARSE_QUERY: u32 = 40026;
}

/// A text of a request, short enough and without control characters, to be quoted in a message.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().filter(|character| !character.is_control()).take(80).collect();
    format!("{short:?}")
}
