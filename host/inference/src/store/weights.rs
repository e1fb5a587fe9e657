//! The header of a safetensors file, read before anything is allocated for its tensors.
//!
//! The format: eight bytes of little-endian length, a JSON header of that length, then the tensors' bytes without
//! gaps. The length is the file's own claim, so it is bounded here; that offsets, shapes and types agree is checked by
//! the `safetensors` crate, and that they end where the file ends by us.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

/// Thousands of tensors fit; a header is a fraction of a per mille of a model.
const HEADER_BYTES: u64 = 16 << 20;

/// A checked header.
pub(crate) struct Header {
    /// The tensors: type, shape, offsets from [`Header::data_start`].
    pub(crate) metadata: Metadata,
    /// Where the tensors' bytes begin in the file.
    pub(crate) data_start: u64,
}

/// Reads and checks the header. The error says what is wrong, not in which file.
pub(crate) fn check_safetensors(path: &Path) -> Result<Header, String> {
    let mut file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let size = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| format!("it has {size} bytes, too few for a safetensors header"))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES || length > size.saturating_sub(8) {
        return Err(format!("its header claims {length} bytes, in a file of {size} and with {HEADER_BYTES} allowed"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(|error| format!("its header cannot be read: {error}"))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| format!("its header is broken: {error}"))?;
    let data_start = 8 + length;
    let end = data_start.saturating_add(metadata.data_len() as u64);
    if end != size {
        return Err(format!("its tensors end at byte {end} but the file has {size}; it may be truncated"));
    }
    Ok(Header { metadata, data_start })
}
