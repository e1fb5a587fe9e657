//! The binding file from outside, as one program.

#![allow(missing_docs, clippy::unwrap_used)]

mod all_keys;
mod cases;
mod files;
mod properties;
