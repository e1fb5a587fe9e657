//! What a vector, a batch and a query may be: the limits that Cloudflare documents for Vectorize.

/// Numbers of a vector.
pub const MAX_DIMENSIONS: usize = 1536;
/// Bytes of a vector's id.
pub const MAX_ID_BYTES: usize = 64;
/// Bytes of a namespace's name.
pub const MAX_NAMESPACE_BYTES: usize = 64;
/// Bytes of a vector's metadata as compact JSON.
pub const MAX_METADATA_BYTES: usize = 10 << 10;
/// Objects within objects in metadata.
pub const MAX_METADATA_DEPTH: usize = 16;
/// Bytes of a key of metadata, and of a property's path.
pub const MAX_KEY_BYTES: usize = 512;
/// Bytes of a string that filters see.
pub const MAX_INDEXED_BYTES: usize = 64;
/// Properties with a metadata index.
pub const MAX_METADATA_INDEXES: usize = 10;
/// Vectors or ids that a worker's call changes.
pub const MAX_WORKER_BATCH: usize = 1000;
/// Vectors or ids that a call from elsewhere changes.
pub const MAX_BATCH: usize = 5000;
/// Ids of one look-up.
pub const MAX_GET: usize = 20;
/// Matches of a query that says nothing.
pub const DEFAULT_TOP_K: usize = 5;
/// Matches of a query.
pub const MAX_TOP_K: usize = 100;
/// Matches of a query that returns values or all metadata.
pub const MAX_TOP_K_WHOLE: usize = 20;
/// Bytes of a filter as compact JSON.
pub const MAX_FILTER_BYTES: usize = 2048;
