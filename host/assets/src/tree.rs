//! The directory, and which of its files there are for the outside.
//!
//! A request's path becomes a file here and nowhere else. Two things are checked, neither of which relies on the other:
//! the path is made of plain names, and the file that it leads to, after every symbolic link, stands below the
//! directory under a name that may be served. A link inside the directory may lead to another file inside.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use ignore::gitignore::Gitignore;

use crate::etag::{Etags, HASHED_BYTES, Look};
use crate::html::Lookup;

/// Files with rules, at the top of the directory.
pub(crate) const HEADERS: &str = "_headers";
pub(crate) const REDIRECTS: &str = "_redirects";
pub(crate) const IGNORED: &str = ".assetsignore";

/// Names at the top of the directory that are for the host and not for the outside.
const RESERVED: &[&str] = &[HEADERS, REDIRECTS, IGNORED, "_worker.js"];

/// Names that are nowhere served.
const NOWHERE: &[&str] = &["node_modules"];

/// The one name at the top that starts with a dot and is served (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// The longest path that is looked for, in bytes; no file system has longer ones.
const LONGEST_PATH: usize = 4096;

/// The directory.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Absolute, without symbolic links.
    root: PathBuf,
}

/// A file that may be served.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Absolute, without symbolic links, below the directory.
    pub(crate) path: PathBuf,
    /// The path it was asked for, below the directory: a link's own name, which says what it is.
    pub(crate) name: String,
    size: u64,
}

impl Tree {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let root = std::fs::canonicalize(directory)?;
        // Whether it is a directory that can be read.
        std::fs::read_dir(&root)?;
        Ok(Tree { root })
    }

    /// A file at the top of the directory.
    pub(crate) fn top(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The file of a decoded path.
    pub(crate) fn find(&self, path: &str, ignored: &Gitignore) -> Option<Found> {
        let relative = path.strip_prefix('/')?;
        if path.len() > LONGEST_PATH || !is_plain(relative) || !may_be_served(relative, ignored) {
            return None;
        }
        let path = std::fs::canonicalize(self.root.join(relative)).ok()?;
        let inside = path.strip_prefix(&self.root).ok()?.to_str()?;
        // The same for where links lead, and for how the file is really spelt where letter case does not count.
        if inside != relative && !may_be_served(&inside.replace(std::path::MAIN_SEPARATOR, "/"), ignored) {
            return None;
        }
        let metadata = std::fs::metadata(&path).ok()?;
        metadata.is_file().then(|| Found { path, name: relative.to_owned(), size: metadata.len() })
    }
}

/// Whether a relative path is made of names that mean themselves on any system.
fn is_plain(relative: &str) -> bool {
    // Windows reads what follows a colon as the name of a stream.
    let strange = |name: &str| name.contains(['\0', '\\']) || (cfg!(windows) && name.contains(':'));
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !strange(name);
    relative.split('/').all(plain)
}

fn may_be_served(relative: &str, ignored: &Gitignore) -> bool {
    let mut names = relative.split('/');
    let top = names.next().unwrap_or_default();
    let hidden = |name: &str| name.starts_with('.') || NOWHERE.contains(&name);
    !RESERVED.contains(&top)
        && (top == WELL_KNOWN || !hidden(top))
        && !names.any(hidden)
        && !ignored.matched_path_or_any_parents(relative, false).is_ignore()
}

impl Found {
    /// Opens the file and looks at what was opened.
    pub(crate) fn open(&self) -> io::Result<(File, Metadata)> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            // The path has no links; what has become one since, or a pipe that nobody writes to, is not what was found.
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        }
        let file = options.open(&self.path)?;
        let metadata = file.metadata()?;
        match metadata.is_file() {
            true => Ok((file, metadata)),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "it is no file any more")),
        }
    }
}

/// The directory under the rules of one moment.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) ignored: &'a Gitignore,
    pub(crate) etags: &'a Etags,
}

impl View<'_> {
    fn etag(&self, found: &Found) -> Option<String> {
        let (mut file, metadata) = found.open().ok()?;
        self.etags.of(&found.path, &mut file, Look::of(&metadata)).ok()
    }
}

impl Lookup for View<'_> {
    type Found = Found;

    fn find(&self, path: &str) -> Option<Found> {
        self.tree.find(path, self.ignored)
    }

    /// Content is compared only where it could be the same.
    fn same(&self, one: &Found, other: &Found) -> bool {
        if one.path == other.path {
            return true;
        }
        one.size == other.size && one.size <= HASHED_BYTES && {
            let tag = self.etag(one);
            tag.is_some() && tag == self.etag(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(relative: &str) -> bool {
        is_plain(relative) && may_be_served(relative, &Gitignore::empty())
    }

    #[test]
    fn names_that_are_not_for_the_outside() {
        for name in ["a", "a/b.html", ".well-known/security.txt", "a/_headers", "_headers2", "a..b"] {
            assert!(served(name), "{name}");
        }
        for name in [
            "",
            "/",
            "a//b",
            "a/",
            "..",
            "a/../b",
            "a/./b",
            ".git/config",
            "a/.env",
            "a/.well-known/x",
            ".well-known/.x",
            "_headers",
            "_redirects",
            "_worker.js",
            "_worker.js/index.js",
            "node_modules/x",
            "a/node_modules/x",
            "a\0b",
            "a\\b",
        ] {
            assert!(!served(name), "{name:?}");
        }
    }
}
