//! Whether an answer is what a step expects. Every difference is told.

use std::collections::BTreeMap;

use serde_json::Value;

use super::case::{Expect, Header, Piece, Statuses};
use super::project::from_base64;
use crate::harness::Reply;

/// The longest text that a difference shows.
const SHOWN: usize = 1500;

/// An answer with what came first of it.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) first: Vec<u8>,
    /// The client left after the first piece, so nothing can be said of the rest.
    pub(super) left: bool,
}

/// What differs. `sent` is the request's body, `remembered` the bodies that earlier steps kept.
pub(super) fn differences(
    expect: &Expect,
    answer: &Answer,
    sent: &[u8],
    remembered: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let mut faults = Vec::new();
    status(expect, answer, &mut faults);
    headers(expect, &answer.reply, &mut faults);
    if let Some(piece) = &expect.first_piece {
        texts("the first piece", piece, &String::from_utf8_lossy(&answer.first), &mut faults);
    }
    if !answer.left {
        body(expect, answer, sent, &mut faults);
        if answer.reply.complete == expect.incomplete {
            faults.push(format!("the body is {}", if expect.incomplete { "complete" } else { "incomplete" }));
        }
    }
    if let Some(name) = &expect.differs_from {
        let kept = remembered.get(name).unwrap_or_else(|| panic!("nothing is remembered as {name}"));
        if kept == &answer.reply.body {
            faults.push(format!("the body is the one kept as {name}"));
        }
    }
    if !faults.is_empty() {
        faults.push(format!("the body: {}", shown(&answer.reply.text())));
    }
    faults
}

fn status(expect: &Expect, answer: &Answer, faults: &mut Vec<String>) {
    let status = answer.reply.status;
    let good = match &expect.status {
        None => status == 200,
        Some(Statuses::One(expected)) => status == *expected,
        Some(Statuses::Several(expected)) => expected.contains(&status),
    };
    if !good {
        faults.push(format!("the status is {status}"));
    }
}

fn headers(expect: &Expect, reply: &Reply, faults: &mut Vec<String>) {
    for (name, expected) in &expect.headers {
        let lines: Vec<&str> = reply
            .headers
            .iter()
            .filter(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        let good = match expected {
            Header::Absent(()) => lines.is_empty(),
            Header::Text(text) => lines == [text],
            Header::Lines(expected) => lines == *expected,
            Header::Contains(part) => lines.iter().any(|line| line.contains(&part.contains)),
            Header::Any(any) => any.any != lines.iter().all(|line| line.is_empty()),
        };
        if !good {
            faults.push(format!("the header {name} is {lines:?}"));
        }
    }
}

fn body(expect: &Expect, answer: &Answer, sent: &[u8], faults: &mut Vec<String>) {
    let bytes = &answer.reply.body;
    let text = String::from_utf8_lossy(bytes);
    if expect.json.is_some() || expect.parts.is_some() {
        match serde_json::from_slice::<Value>(bytes) {
            Ok(value) => {
                if let Some(expected) = &expect.json {
                    compare(&value, expected, true, "the body", faults);
                }
                if let Some(expected) = &expect.parts {
                    compare(&value, expected, false, "the body", faults);
                }
            }
            Err(error) => faults.push(format!("the body is not JSON: {error}")),
        }
    }
    if expect.text.as_ref().is_some_and(|expected| expected.as_bytes() != bytes) {
        faults.push(format!("the text is not {:?}", expect.text));
    }
    if expect.base64.as_ref().is_some_and(|expected| &from_base64(expected) != bytes) {
        faults.push(format!("the bytes are {:?}", &bytes[..bytes.len().min(100)]));
    }
    if expect.echo && sent != bytes {
        faults.push(format!("{} bytes were sent and {} others came back", sent.len(), bytes.len()));
    }
    let piece = Piece { contains: expect.contains.clone(), lacks: expect.lacks.clone() };
    texts("the body", &piece, &text, faults);
}

fn texts(what: &str, piece: &Piece, text: &str, faults: &mut Vec<String>) {
    for part in piece.contains.iter().filter(|part| !text.contains(part.as_str())) {
        faults.push(format!("{what} lacks {part:?}: {}", shown(text)));
    }
    for part in piece.lacks.iter().filter(|part| text.contains(part.as_str())) {
        faults.push(format!("{what} has {part:?}"));
    }
}

/// Compares JSON. Numbers are compared by value; unless `whole`, objects may have more than is expected.
fn compare(value: &Value, expected: &Value, whole: bool, place: &str, faults: &mut Vec<String>) {
    match (value, expected) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                let place = format!("{place}.{key}");
                match found.get(key) {
                    Some(found) => compare(found, wanted, whole, &place, faults),
                    None => faults.push(format!("{place} is missing")),
                }
            }
            for key in found.keys().filter(|key| whole && !wanted.contains_key(*key)) {
                faults.push(format!("{place}.{key} was not expected"));
            }
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                compare(found, wanted, true, &format!("{place}[{at}]"), faults);
            }
        }
        (Value::Number(found), Value::Number(wanted)) if found.as_f64() == wanted.as_f64() => {}
        _ if value == expected => {}
        _ => faults.push(format!("{place} is {value}, not {expected}")),
    }
}

pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => format!("{text:?}"),
    }
}
