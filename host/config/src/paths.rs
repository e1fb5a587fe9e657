//! Paths of a binding file, made absolute.

use std::path::{Component, Path, PathBuf};

/// `path`, relative to `directory`, as an absolute path; none if it is empty or there is no working directory.
///
/// `..` is taken away with the directory before it, for the sake of those who read the path, except after a symbolic
/// link, where the two are not the same as nothing.
pub(crate) fn absolute(directory: &Path, path: &Path) -> Option<PathBuf> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let mut out = PathBuf::new();
    for component in std::path::absolute(directory.join(path)).ok()?.components() {
        let named = matches!(out.components().next_back(), Some(Component::Normal(_)));
        let link = || std::fs::symlink_metadata(&out).is_ok_and(|found| found.is_symlink());
        if component == Component::ParentDir && named && !link() {
            out.pop();
        } else {
            out.push(component);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_taken_away() {
        let path = |text| absolute(Path::new("/a/b"), Path::new(text)).unwrap();
        assert_eq!(path("../c/./d"), Path::new("/a/c/d"));
        assert_eq!(path("/x/../y"), Path::new("/y"));
        assert_eq!(path("../../c"), Path::new("/c"));
        assert_eq!(absolute(Path::new("/a"), Path::new("")), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_parent_of_a_link_is_not_where_the_link_stands() {
        let scratch = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", scratch.path().join("link")).unwrap();
        let path = absolute(scratch.path(), Path::new("link/../x")).unwrap();
        assert!(path.ends_with("link/../x"), "{}", path.display());
    }
}
