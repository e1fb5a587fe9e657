//! Names that are checked once: of workers, bindings, models and environments.
//!
//! A worker's name becomes a host name, a binding's an identifier of the guest's language, a model's a path in the
//! store. Each has a grammar narrow enough that nothing later has to escape it.

use std::borrow::Borrow;
use std::fmt;

use serde::Serialize;

/// The name of a worker: a DNS label (RFC 1123) of lower-case letters, digits and hyphens, at most 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct WorkerName(String);

/// Why a text is no worker's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or more than 63 bytes.
    #[error("a worker's name has 1 to 63 characters")]
    Length,
    /// A character that is not allowed, or a hyphen at an end.
    #[error("a worker's name consists of lower-case letters, digits and inner hyphens")]
    Character,
}

impl WorkerName {
    /// Checks a name.
    ///
    /// # Errors
    /// If the text is no DNS label in lower case.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > 63 {
            return Err(NameError::Length);
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !name.bytes().all(allowed) || name.starts_with('-') || name.ends_with('-') {
            return Err(NameError::Character);
        }
        Ok(WorkerName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A valid name near to a text that is none, if there is one.
    pub(crate) fn near(name: &str) -> Option<WorkerName> {
        let mut near: String = name
            .chars()
            .take(63)
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        while near.contains("--") {
            near = near.replace("--", "-");
        }
        WorkerName::new(near.trim_matches('-')).ok()
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for WorkerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for WorkerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether a binding of a resource may have this name: an ASCII identifier.
pub(crate) fn is_binding(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$');
    let rest = |byte: u8| first(byte) || byte.is_ascii_digit();
    name.len() <= 128 && name.bytes().next().is_some_and(first) && name.bytes().all(rest)
}

/// Whether an index may have this name, which becomes that of a file.
pub(crate) fn is_store(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// Whether a variable or secret may have this name. Dots and hyphens are usual in `.env` files.
pub(crate) fn is_variable(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(allowed)
}

/// Whether a model may have this name, which may become a path of the model store: no empty or dotted part.
pub(crate) fn is_model(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@' | b':' | b'+');
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
    name.len() <= 200 && name.split('/').all(part)
}

/// What [`is_model`] allows, in words that follow "the name".
pub(crate) const MODEL_GRAMMAR: &str = "has up to 200 letters, digits and `_ . - @ : +`, in parts separated by `/`";

/// Whether an environment may have this name, which becomes part of a file's name.
pub(crate) fn is_environment(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_names_are_dns_labels() {
        for name in ["a", "chat-2", "0", &"a".repeat(63)] {
            assert_eq!(WorkerName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "A", "a_b", "-a", "a-", "a.b", "ü", &"a".repeat(64)] {
            assert!(WorkerName::new(name).is_err(), "{name}");
        }
        assert_eq!(WorkerName::near("My_Worker!").unwrap().as_str(), "my-worker");
        assert_eq!(WorkerName::near("__"), None);
    }

    #[test]
    fn model_names_are_no_paths_out_of_the_store() {
        for name in ["@cf/meta/llama-3.1-8b-instruct", "small", "my/model:q4"] {
            assert!(is_model(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a b", "a\\b", "a\0"] {
            assert!(!is_model(name), "{name}");
        }
    }

    #[test]
    fn binding_names_are_identifiers() {
        assert!(is_binding("AI") && is_binding("_x1") && is_binding("$"));
        assert!(!is_binding("") && !is_binding("1a") && !is_binding("a-b") && !is_binding("a b"));
        assert!(is_variable("a-b.c") && !is_variable("a=b") && !is_variable(""));
        assert!(is_environment("staging") && !is_environment("../x") && !is_environment("a/b"));
    }
}
