//! `[queues]`: what a worker sends to and what it receives.

use std::time::Duration;

use serde::Serialize;

use crate::diagnostic::quoted;
use crate::source::{Report, Span, Spanned};
use crate::tree::{Node, Table};

/// `[[queues.consumers]]`: a queue whose messages the worker handles. A queue has one such worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueConsumer {
    /// The queue's name.
    pub queue: String,
    /// Messages of one batch. Key `max_batch_size`, 1 to 100, default 10.
    pub max_batch_size: usize,
    /// How long the first message of a batch waits for others. Key `max_batch_timeout` in seconds, up to 60, default 5.
    #[serde(rename = "max_batch_timeout_ms", serialize_with = "crate::worker::milliseconds")]
    pub max_batch_timeout: Duration,
    /// How often a message is tried again. Key `max_retries`, up to 100, default 3.
    pub max_retries: u32,
    /// Where messages go whose retries are used up; none for nowhere. Key `dead_letter_queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_queue: Option<String>,
    /// Batches that are handled at the same time; none for as many as the host finds good. Key `max_concurrency`, 1 to 250.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
    /// Seconds before a message is tried again, unless the worker says otherwise. Key `retry_delay`, default 0.
    pub retry_delay: u32,
}

/// Whether a queue may have this name. A name is checked where it stands in a file, so the rule stands here too.
pub(crate) fn is_queue(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(sound)
}

/// The name of a queue; none, and a fault, if it is no name.
pub(crate) fn queue_name(table: &Table, key: &str, report: &mut Report) -> Option<(String, Span)> {
    let (name, span) = table.text(key)?;
    if is_queue(name) {
        return Some((name.to_owned(), span));
    }
    let help = "a queue's name has lower-case letters, digits and `-`, up to 63, and begins with no `-`";
    report.error_with_help(span, format!("{} is no name for a queue", quoted(name)), help);
    None
}

/// The consumers of one table of worker keys.
pub(crate) fn consumers(table: &Table, report: &mut Report) -> Vec<Spanned<QueueConsumer>> {
    let nodes = table.table("queues").and_then(|queues| queues.array("consumers")).unwrap_or_default();
    nodes.iter().filter_map(Node::as_table).filter_map(|table| consumer(table, report)).collect()
}

fn consumer(table: &Table, report: &mut Report) -> Option<Spanned<QueueConsumer>> {
    let dead_letters = queue_name(table, "dead_letter_queue", report);
    let (queue, span) = queue_name(table, "queue", report)?;
    if let Some((_, there)) = dead_letters.as_ref().filter(|(name, _)| *name == queue) {
        let help = "name another queue, or leave `dead_letter_queue` out";
        report.error_with_help(*there, format!("{} cannot be its own dead-letter queue", quoted(&queue)), help);
    }
    let number =
        |key: &str, default: u32| table.whole(key).and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
    let consumer = QueueConsumer {
        queue,
        max_batch_size: number("max_batch_size", 10) as usize,
        max_batch_timeout: Duration::from_secs(number("max_batch_timeout", 5).into()),
        max_retries: number("max_retries", 3),
        dead_letter_queue: dead_letters.map(|(name, _)| name),
        max_concurrency: table.whole("max_concurrency").and_then(|number| usize::try_from(number).ok()),
        retry_delay: number("retry_delay", 0),
    };
    Some(Spanned { value: consumer, span })
}
