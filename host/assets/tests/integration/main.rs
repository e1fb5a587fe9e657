//! Directories of files, and what is answered for them.

#![allow(missing_docs, clippy::unwrap_used)]

mod bodies;
mod escapes;
mod paths;
mod rules;
mod site;
