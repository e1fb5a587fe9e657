//! Tests of the crate from outside.

#![allow(clippy::unwrap_used)]

mod conformance;
mod hostile;
mod model;
mod recall;
mod support;
