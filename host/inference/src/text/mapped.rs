//! Files of weights, mapped into memory.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Maps the file at `path`. Pages are read when they are touched.
///
/// # Errors
/// When it cannot be opened or mapped.
pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is only read, as bytes of any value. A file that another process shortens meanwhile would raise
    // SIGBUS; models lie in the host's own store, are replaced by renaming, and the map lives only while a model loads.
    unsafe { Mmap::map(&file) }
}
