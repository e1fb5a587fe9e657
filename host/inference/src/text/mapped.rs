//! Files of weights, mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A mapped file. Pages are read when they are touched.
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read, as bytes of any value. A file that another process shortens meanwhile would raise
        // SIGBUS; models lie in the host's own store, are replaced by renaming, and the map lives only while a model
        // loads.
        unsafe { Mmap::map(&file) }.map(Self)
    }

    /// Lets go of the pages that lie wholly inside `part`, a slice of this file, whose values were copied: without that a
    /// model would count twice while it loads, in its file's form and in that of its products. Reading them again reads
    /// the file again. A slice of anything else is left alone.
    pub(super) fn release(&self, part: &[u8]) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice;
            const PAGE: usize = 1 << 16;
            let whole = self.0.as_ptr_range();
            let of_part = part.as_ptr_range();
            if of_part.start < whole.start || of_part.end > whole.end {
                return;
            }
            let (start, end) = (of_part.start.addr() - whole.start.addr(), of_part.end.addr() - whole.start.addr());
            // The largest pages in use, and a map begins at a page: nothing outside of the part is touched.
            let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
            if start < end {
                // SAFETY: the map is of a file and never written to, so pages that are dropped come back as they were.
                // That it fails where a system does not know the advice is no fault: the pages stay.
                let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = part;
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_of_can_be_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let mapped = Mapped::open(file.path()).unwrap();
        assert_eq!(*mapped, bytes[..]);
        for part in [&mapped[..], &mapped[70_001..333_333], &mapped[5..9], &mapped[..0], &bytes[..]] {
            mapped.release(part);
            assert_eq!(*mapped, bytes[..]);
        }
    }
}
