//! Tests of the crate from outside.

#![allow(clippy::unwrap_used)]

mod backups;
mod files;
mod support;
mod writes;
