//! Where a project in Rust gets the SDK from.
//!
//! A host that was built from a checkout which is still there names that checkout, so that project and host fit each
//! other to the commit. Any other host names the release that it is.

use std::path::{Path, PathBuf};

/// The SDK in the checkout that this program was built from.
const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/rust");
/// Where releases of this program come from; empty as long as the workspace's manifest names no repository.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Nobody knows where the SDK is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSdk {
    /// The folder that was named is something else.
    #[error("{} is not the SDK: name the folder `guest-sdk/rust` of a checkout of host", .0.display())]
    Other(PathBuf),
    /// Neither the checkout nor a repository.
    #[error(
        "the checkout that this program was built from is gone; name the folder `guest-sdk/rust` of another with \
         `--sdk FOLDER`"
    )]
    Gone,
}

/// The source of the SDK, as the table of a dependency has it: `path = "…"`, or `git = "…"` with a tag.
pub(super) fn source(chosen: Option<&Path>) -> Result<String, NoSdk> {
    match chosen {
        Some(folder) => at(folder).ok_or_else(|| NoSdk::Other(folder.to_owned())),
        None => at(Path::new(BUILT_FROM)).or_else(|| released(REPOSITORY)).ok_or(NoSdk::Gone),
    }
}

/// The source in a folder, if that holds the SDK and has a name that TOML can hold.
fn at(folder: &Path) -> Option<String> {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    if !manifest.lines().any(|line| line.trim() == "name = \"host-sdk\"") {
        return None;
    }
    let folder = folder.canonicalize().ok()?;
    folder.to_str().and_then(text).map(|folder| format!("path = {folder}"))
}

/// The source of this program's own release.
fn released(repository: &str) -> Option<String> {
    let repository = text(repository).filter(|_| !repository.is_empty())?;
    Some(format!("git = {repository}, tag = \"v{}\"", env!("CARGO_PKG_VERSION")))
}

/// A text as TOML has it. Control characters, which paths hardly have, are refused instead of escaped.
fn text(text: &str) -> Option<String> {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    (!text.chars().any(char::is_control)).then(|| format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_named_while_it_is_there() {
        let own = source(None).unwrap();
        assert!(own.starts_with("path = \"/") && own.ends_with("guest-sdk/rust\""), "{own}");
    }

    #[test]
    fn another_folder_has_to_be_the_sdk() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Err(NoSdk::Other(folder.path().to_owned()));
        assert_eq!(source(Some(folder.path())), refused);
        std::fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"other\"\n").unwrap();
        assert_eq!(source(Some(folder.path())), refused);
        let odd = folder.path().join("a \"b\" \\c");
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join("Cargo.toml"), "[package]\nname = \"host-sdk\"\n").unwrap();
        let found = source(Some(&odd)).unwrap();
        assert!(found.ends_with(r#"/a \"b\" \\c""#), "{found}");
    }

    #[test]
    fn a_release_is_named_by_its_tag() {
        let expected = format!("git = \"https://example.com/host\", tag = \"v{}\"", env!("CARGO_PKG_VERSION"));
        assert_eq!(released("https://example.com/host"), Some(expected));
        assert_eq!(released(""), None);
        assert_eq!(released("a\nb"), None);
    }
}
