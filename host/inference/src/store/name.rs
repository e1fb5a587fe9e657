//! Names that may become folders.

use std::str::FromStr;

/// A model's name: `smollm2-135m-instruct`, `@cf/meta/llama-3.1-8b-instruct`. Letters, digits and `._@/:+-`, at most
/// [`ModelName::MAX`] bytes, no empty, `.` or `..` part. Names are case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

/// Why a text is no model name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelNameError {
    /// Empty, or too long.
    #[error("a model name has 1 to {} bytes", ModelName::MAX)]
    Length,
    /// A character that no name has.
    #[error("a model name has only letters, digits and ._@/:+-")]
    Character,
    /// `//`, `/../`, a leading dot.
    #[error("a model name starts with no dot and has no empty or all-dots part between slashes")]
    Part,
}

impl ModelName {
    /// The most bytes of a name.
    pub const MAX: usize = 128;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One folder for each name: what file systems give a meaning to is written as `%XX`.
    pub(super) fn folder(&self) -> String {
        self.0.replace('/', "%2F").replace(':', "%3A")
    }

    /// The name whose [`ModelName::folder`] this is.
    pub(super) fn from_folder(folder: &str) -> Option<ModelName> {
        let name: ModelName = folder.replace("%2F", "/").replace("%3A", ":").parse().ok()?;
        (name.folder() == folder).then_some(name)
    }
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.is_empty() || name.len() > Self::MAX {
            return Err(ModelNameError::Length);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@/:+-".contains(&b)) {
            return Err(ModelNameError::Character);
        }
        if name.starts_with('.') || name.split('/').any(|part| part.bytes().all(|b| b == b'.')) {
            return Err(ModelNameError::Part);
        }
        Ok(ModelName(name.to_owned()))
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_none() {
        for name in ["", "/", "a//b", "../a", "a/../b", "a/.", ".hidden", "a b", "a\0", "ä", "/a", "a/", "a\\b", "%2F"]
        {
            assert!(name.parse::<ModelName>().is_err(), "{name:?}");
        }
        assert!("x".repeat(129).parse::<ModelName>().is_err());
    }

    proptest! {
        #[test]
        fn a_folder_is_one_component_and_gives_the_name_back(text in "[a-zA-Z0-9._@/:+-]{1,40}") {
            if let Ok(name) = text.parse::<ModelName>() {
                let folder = name.folder();
                prop_assert_eq!(std::path::Path::new(&folder).components().count(), 1);
                prop_assert!(!folder.starts_with('.'));
                prop_assert_eq!(ModelName::from_folder(&folder), Some(name));
            }
        }
    }
}
