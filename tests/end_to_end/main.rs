//! The whole path, with real processes: binding file, component, host, client.
//!
//! Every case runs in both component flavours. What a guest fixture does is said in the first lines of its source under
//! `tests/guests/`.

#![allow(missing_docs, clippy::unwrap_used)]

mod ai;
mod bad_input;
mod bindings;
mod command_line;
mod conformance;
mod dev;
mod examples;
mod gateway;
mod generation;
mod harness;
mod http;
mod js_conformance;
mod limits;
mod pages;
mod projects;
mod providers;
mod queues;
mod rag;
mod remote;
#[path = "../support/scripted.rs"]
mod scripted;
mod tasks;
mod vectorize;
