//! `tests/conformance-js/<case>/`: JavaScript workers as their authors write them, and what they have to answer.
//!
//! The form of a case is described in the README of that folder. Each case has a host of its own, so that neither its
//! log nor its instances are another's; a few run side by side, since most of a case is waiting. `HOST_CASES` holds a
//! part of the names to run while working on one.

mod case;
mod clients;
mod expect;
mod network;
mod project;
mod steps;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use case::Case;

use crate::harness::workspace;

/// Hosts at once.
const SIDE_BY_SIDE: usize = 4;

#[test]
fn every_case_does_what_it_says() {
    let mut cases = Case::all(&workspace().join("tests/conformance-js"));
    assert!(cases.len() >= 110, "only {} cases were found", cases.len());
    if let Some(part) = std::env::var("HOST_CASES").ok().filter(|part| !part.is_empty()) {
        cases.retain(|case| case.name.contains(&part));
        eprintln!("{} cases hold {part:?} in their names; the others are left out", cases.len());
    }
    let count = cases.len();
    // Whatever is made once for a version of the host is made now, and not by several at once.
    if let Some(case) = cases.front() {
        steps::check(case);
    }
    let failures = run_all(cases);
    let list: String = failures.iter().map(|(name, fault)| format!("\n\n{name}: {fault}")).collect();
    assert!(failures.is_empty(), "{} of {count} cases failed{list}", failures.len());
}

/// Runs the cases, and returns those that failed with what differed.
fn run_all(cases: VecDeque<Case>) -> Vec<(String, String)> {
    let (waiting, failures) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let case = waiting.lock().unwrap().pop_front();
                    let Some(case) = case else { return };
                    if let Err(fault) = guarded(&case) {
                        failures.lock().unwrap().push((case.name, fault));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    failures
}

/// Runs one case. What the harness panics about is this case's failure and no other's.
fn guarded(case: &Case) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| steps::run(case))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(text.unwrap_or("a panic without words").to_owned())
    })
}
