//! Strong entity tags, made from the content and remembered.
//!
//! A tag is made once for a file's size and time of change. A file that has changed a moment ago may change again
//! without its time showing it, since clocks of file systems tick; such a file's tag is made anew each time until the
//! file has been left alone for a while.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// The largest file whose tag is made from its content, in bytes: Cloudflare's bound for a file. For a larger one, size
/// and time of change have to do.
pub const HASHED_BYTES: u64 = 25 << 20;

/// How many tags are remembered: Cloudflare's bound for the files of a worker.
const MOST: usize = 20_000;

/// For how long after a change a file's time is not relied on.
pub(crate) const UNSETTLED: Duration = Duration::from_secs(2);

/// What a file looked like: while this stays, so does its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) size: u64,
    modified: Option<SystemTime>,
}

impl Look {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Look { size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Whether a change of the file from now on would show.
    pub(crate) fn is_settled(&self) -> bool {
        let age = self.modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.is_some_and(|age| age > UNSETTLED)
    }
}

/// The tags that are known.
#[derive(Debug, Default)]
pub(crate) struct Etags {
    known: Mutex<HashMap<PathBuf, (Look, String)>>,
}

impl Etags {
    /// The tag of an open file, in quotes. Leaves the file's position anywhere.
    pub(crate) fn of(&self, path: &Path, file: &mut File, look: Look) -> io::Result<String> {
        if let Some((known, tag)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path)
            && *known == look
        {
            return Ok(tag.clone());
        }
        let tag = if look.size > HASHED_BYTES { by_look(path, look) } else { by_content(file)? };
        if look.is_settled() {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MOST
                && let Some(any) = known.keys().next().cloned()
            {
                known.remove(&any);
            }
            known.insert(path.to_owned(), (look, tag.clone()));
        }
        Ok(tag)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.lock().unwrap().len()
    }
}

fn by_content(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    // A file that grows while it is read is not read for ever.
    let mut rest = file.take(HASHED_BYTES);
    let mut piece = vec![0; 64 << 10];
    loop {
        match rest.read(&mut piece)? {
            0 => return Ok(quoted(hash)),
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

fn by_look(path: &Path, look: Look) -> String {
    let since = look.modified.and_then(|modified| modified.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut hash = Sha256::new();
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(look.size.to_le_bytes());
    hash.update(since.unwrap_or_default().as_nanos().to_le_bytes());
    quoted(hash)
}

/// Half of a hash in hexadecimal, as an entity tag.
fn quoted(hash: Sha256) -> String {
    let mut tag = String::from("\"");
    for byte in hash.finalize().iter().take(16) {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag.push('"');
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(etags: &Etags, path: &Path) -> String {
        let mut file = File::open(path).unwrap();
        let look = Look::of(&file.metadata().unwrap());
        etags.of(path, &mut file, look).unwrap()
    }

    fn write(path: &Path, content: &str, age: Duration) {
        std::fs::write(path, content).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn a_tag_follows_the_content() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, other) = (scratch.path().join("a"), scratch.path().join("b"));
        let etags = Etags::default();
        std::fs::write(&one, "same").unwrap();
        std::fs::write(&other, "same").unwrap();
        assert_eq!(tag(&etags, &one), tag(&etags, &other));
        // As long and written within the same tick of the clock, and yet another tag.
        std::fs::write(&other, "else").unwrap();
        assert_ne!(tag(&etags, &one), tag(&etags, &other));
        assert_eq!(etags.len(), 0, "an unsettled file is not remembered");
    }

    #[test]
    fn a_settled_file_is_read_once() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a");
        let etags = Etags::default();
        let then = SystemTime::now() - Duration::from_secs(600);
        let write_at = |content: &str| {
            std::fs::write(&path, content).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        write_at("one");
        let first = tag(&etags, &path);
        assert_eq!(etags.len(), 1);
        write_at("two");
        assert_eq!(tag(&etags, &path), first, "size and time say that nothing changed");
        write(&path, "two", Duration::from_secs(300));
        assert_ne!(tag(&etags, &path), first);
        assert_eq!(etags.len(), 1);
    }

    #[test]
    fn the_tag_of_a_huge_file_is_made_without_reading_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("huge");
        // Sparse: a terabyte that takes no room, and that nobody hashes within a test.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let first = tag(&Etags::default(), &path);
        File::options().write(true).open(&path).unwrap().set_len((1 << 40) + 1).unwrap();
        assert_ne!(tag(&Etags::default(), &path), first);
    }
}
