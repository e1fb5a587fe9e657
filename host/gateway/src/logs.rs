//! The log: one row a call of a provider, with what it was asked, how it went and what it cost.
//!
//! A row is on the disk before its id is given to anybody. That of an answer that streams says until the end that it did
//! not go well, so what is left of a process that was killed is a call that broke off. A worker sees its own rows alone;
//! the operator sees all.

use std::sync::{Arc, Mutex};

use host_state::rusqlite::{self, OptionalExtension as _, Row, params};
use host_state::{Database, Directory, StateError};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cache::{count, now, open};
use crate::{GatewayError, options};

const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE logs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    gateway TEXT NOT NULL,
    worker TEXT NOT NULL,
    created INTEGER NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    path TEXT NOT NULL,
    step INTEGER NOT NULL,
    status INTEGER NOT NULL,
    success INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    duration INTEGER NOT NULL,
    tokens_in INTEGER,
    tokens_out INTEGER,
    cost REAL,
    custom_cost INTEGER NOT NULL,
    request_size INTEGER NOT NULL,
    request_head TEXT,
    response_size INTEGER NOT NULL,
    response_head TEXT,
    response_type TEXT NOT NULL,
    event_id TEXT,
    metadata TEXT NOT NULL,
    score REAL,
    feedback INTEGER
);
CREATE INDEX logs_worker ON logs (worker, seq);
",
    "
ALTER TABLE logs ADD COLUMN ended INTEGER NOT NULL DEFAULT 1;
",
];
const COLUMNS: &str = "id, gateway, worker, created, provider, model, path, step, status, success, cached, duration, \
    tokens_in, tokens_out, cost, custom_cost, request_size, request_head, response_size, response_head, response_type, \
    event_id, metadata, score, feedback, ended, seq";

/// Rows that are kept of one worker, and how often it is looked whether there are more.
const KEPT: i64 = 100_000;
const LOOK: i64 = 512;
/// What of a body is kept, in bytes.
pub(crate) const HEAD: usize = 8 << 10;
/// Rows of one listing.
const LISTED: usize = 100_000;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// Its id.
    pub id: String,
    /// The gateway.
    pub gateway: String,
    /// The worker that called.
    pub worker: String,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
    /// The provider.
    pub provider: String,
    /// The model, as far as it is told.
    pub model: String,
    /// What was asked for.
    pub path: String,
    /// Which step of the call it was, from 0.
    pub step: i64,
    /// The status.
    pub status_code: u16,
    /// Whether it went well.
    pub success: bool,
    /// Whether it was answered from the cache.
    pub cached: bool,
    /// Milliseconds until the end of the answer.
    pub duration: i64,
    /// Tokens read.
    pub tokens_in: Option<u64>,
    /// Tokens written.
    pub tokens_out: Option<u64>,
    /// What it cost.
    pub cost: Option<f64>,
    /// Whether the caller said what it cost.
    pub custom_cost: bool,
    /// Bytes of the request's body.
    pub request_size: i64,
    /// The beginning of the request's body.
    pub request_head: Option<String>,
    /// Whether that is all of it.
    pub request_head_complete: bool,
    /// Bytes of the answer's body.
    pub response_size: i64,
    /// The beginning of the answer's body.
    pub response_head: Option<String>,
    /// Whether that is all of it.
    pub response_head_complete: bool,
    /// The answer's media type.
    pub response_content_type: String,
    /// The caller's own id of the event.
    pub event_id: Option<String>,
    /// What the caller said of it.
    pub metadata: Map<String, Value>,
    /// How good the answer was, from 0 to 100.
    pub score: Option<f64>,
    /// Whether the answer was good: 1 or -1.
    pub feedback: Option<i64>,
    /// Whether the answer is over. One that is not streams, or did when its process was killed.
    pub ended: bool,
}

/// Which entries are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this gateway.
    pub gateway: Option<String>,
    /// Of this model.
    pub model: Option<String>,
    /// With this status.
    pub status: Option<u16>,
    /// Not older than this, in milliseconds since 1970.
    pub since: Option<i64>,
    /// After this entry, by its place in the log.
    pub after: Option<String>,
    /// Only answers that are over, which come in the order in which they ended.
    pub ended: bool,
    /// At most so many.
    pub most: usize,
}

/// What is added to an entry.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct Patch {
    /// From 0 to 100; null takes it away.
    #[serde(default, deserialize_with = "present")]
    pub score: Option<Value>,
    /// 1 or -1; null takes it away.
    #[serde(default, deserialize_with = "present")]
    pub feedback: Option<Value>,
    /// Replaces what was said before; null takes it away.
    #[serde(default, deserialize_with = "present")]
    pub metadata: Option<Value>,
}

/// What is there, null included.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    serde::Deserialize::deserialize(value).map(Some)
}

pub(crate) struct Logs {
    state: Directory,
    database: Arc<Mutex<Option<Database>>>,
}

impl Logs {
    pub(crate) fn new(state: Directory) -> Self {
        Self { state, database: Arc::default() }
    }

    async fn database(&self) -> Result<Database, StateError> {
        open(&self.state, &self.database, "logs", MIGRATIONS).await
    }

    /// Writes a row, or what is known now of one that was written before.
    pub(crate) async fn add(&self, log: Log) -> Result<(), StateError> {
        let database = self.database().await?;
        let failed = database.clone();
        database.write(move |connection| insert(connection, &log).map_err(|error| failed.error(&error))).await
    }

    pub(crate) async fn get(&self, worker: &str, gateway: &str, id: &str) -> Result<Log, GatewayError> {
        let (worker, gateway, wanted) = (worker.to_owned(), gateway.to_owned(), id.to_owned());
        let database = self.database().await?;
        let failed = database.clone();
        let found = database.read(move |connection| -> Result<Option<Log>, StateError> {
            let sql = format!("SELECT {COLUMNS} FROM logs WHERE id = ?1 AND worker = ?2 AND gateway = ?3");
            connection
                .query_row(&sql, params![wanted, worker, gateway], read)
                .optional()
                .map_err(|error| failed.error(&error))
        });
        found.await?.ok_or_else(|| no_log(id))
    }

    pub(crate) async fn patch(&self, worker: &str, gateway: &str, id: &str, patch: Patch) -> Result<(), GatewayError> {
        let bad = |text: &str| GatewayError::Bad(text.to_owned());
        let score = match &patch.score {
            None | Some(Value::Null) => None,
            Some(score) => match score.as_f64() {
                Some(score) if (0.0..=100.0).contains(&score) => Some(score),
                _ => return Err(bad("'score' must be a number from 0 to 100")),
            },
        };
        let feedback = match &patch.feedback {
            None | Some(Value::Null) => None,
            Some(feedback) => match feedback.as_i64() {
                Some(feedback @ (1 | -1)) => Some(feedback),
                _ => return Err(bad("'feedback' must be 1, -1 or null")),
            },
        };
        let metadata = match &patch.metadata {
            None | Some(Value::Null) => Map::new(),
            Some(metadata) => options::metadata(metadata)?,
        };
        let metadata = Value::Object(metadata).to_string();
        let (given, wanted) =
            ((patch.score.is_some(), patch.feedback.is_some(), patch.metadata.is_some()), id.to_owned());
        let (worker, gateway) = (worker.to_owned(), gateway.to_owned());
        let database = self.database().await?;
        let failed = database.clone();
        let changed = database.write(move |connection| -> Result<usize, StateError> {
            let sql = "UPDATE logs SET score = IIF(?4, ?5, score), feedback = IIF(?6, ?7, feedback), \
                metadata = IIF(?8, ?9, metadata) WHERE id = ?1 AND worker = ?2 AND gateway = ?3";
            let values = params![wanted, worker, gateway, given.0, score, given.1, feedback, given.2, metadata];
            connection.execute(sql, values).map_err(|error| failed.error(&error))
        });
        if changed.await? == 0 { Err(no_log(id)) } else { Ok(()) }
    }
}

fn no_log(id: &str) -> GatewayError {
    GatewayError::NoLog(id.chars().filter(|c| !c.is_control()).take(100).collect())
}

fn insert(connection: &rusqlite::Connection, log: &Log) -> rusqlite::Result<()> {
    let names = COLUMNS.trim_end_matches(", seq");
    let places = (1..=26).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ");
    // A row that ends takes its place anew, behind those that ended before; what was patched meanwhile stays.
    let begun = connection
        .prepare_cached("DELETE FROM logs WHERE id = ?1 RETURNING metadata, score, feedback")?
        .query_row([&log.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (metadata, score, feedback): (String, Option<f64>, Option<i64>) =
        begun.unwrap_or_else(|| (Value::Object(log.metadata.clone()).to_string(), log.score, log.feedback));
    connection.prepare_cached(&format!("INSERT INTO logs ({names}) VALUES ({places})"))?.execute(params![
        log.id,
        log.gateway,
        log.worker,
        log.created_at,
        log.provider,
        log.model,
        log.path,
        log.step,
        log.status_code,
        log.success,
        log.cached,
        log.duration,
        log.tokens_in.map(|count| count as i64),
        log.tokens_out.map(|count| count as i64),
        log.cost,
        log.custom_cost,
        log.request_size,
        log.request_head,
        log.response_size,
        log.response_head,
        log.response_content_type,
        log.event_id,
        metadata,
        score,
        feedback,
        log.ended,
    ])?;
    if connection.last_insert_rowid() % LOOK == 0 {
        connection.execute(
            "DELETE FROM logs WHERE worker = ?1 AND seq <= \
             (SELECT seq FROM logs WHERE worker = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            params![log.worker, KEPT],
        )?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Log> {
    let (request_head, response_head): (Option<String>, Option<String>) = (row.get(17)?, row.get(19)?);
    let (request_size, response_size): (i64, i64) = (row.get(16)?, row.get(18)?);
    let whole = |head: &Option<String>, size: i64| head.is_some() && size <= HEAD as i64;
    let metadata: String = row.get(22)?;
    Ok(Log {
        id: row.get(0)?,
        gateway: row.get(1)?,
        worker: row.get(2)?,
        created_at: row.get(3)?,
        provider: row.get(4)?,
        model: row.get(5)?,
        path: row.get(6)?,
        step: row.get(7)?,
        status_code: row.get(8)?,
        success: row.get(9)?,
        cached: row.get(10)?,
        duration: row.get(11)?,
        tokens_in: count(row, 12)?,
        tokens_out: count(row, 13)?,
        cost: row.get(14)?,
        custom_cost: row.get(15)?,
        request_size,
        request_head_complete: whole(&request_head, request_size),
        request_head,
        response_size,
        response_head_complete: whole(&response_head, response_size),
        response_head,
        response_content_type: row.get(20)?,
        event_id: row.get(21)?,
        metadata: serde_json::from_str(&metadata).unwrap_or_default(),
        score: row.get(23)?,
        feedback: row.get(24)?,
        ended: row.get(25)?,
    })
}

/// The entries that pass a filter, the newest first. Blocks on the disk.
pub(crate) fn list(state: &Directory, filter: &Filter) -> Result<Vec<Log>, GatewayError> {
    if !state.file("gateway", "logs")?.exists() {
        return Ok(Vec::new());
    }
    let database = state.database("gateway", "logs", MIGRATIONS)?;
    let listed = database.read_blocking(|connection| -> Result<Vec<Log>, StateError> {
        let listed = || {
            let after: i64 = match &filter.after {
                None => 0,
                Some(id) => connection
                    .query_row("SELECT seq FROM logs WHERE id = ?1", [id], |row| row.get(0))
                    .optional()?
                    .unwrap_or(0),
            };
            let sql = format!(
                "SELECT {COLUMNS} FROM logs WHERE seq > ?1 AND (?2 IS NULL OR gateway = ?2) AND (?3 IS NULL OR model = ?3) \
                 AND (?4 IS NULL OR status = ?4) AND (?5 IS NULL OR created >= ?5) \
                 AND (ended OR NOT ?6) ORDER BY seq DESC LIMIT ?7"
            );
            let most = filter.most.min(LISTED) as i64;
            let values = params![after, filter.gateway, filter.model, filter.status, filter.since, filter.ended, most];
            connection.prepare(&sql)?.query_map(values, read)?.collect::<rusqlite::Result<Vec<Log>>>()
        };
        listed().map_err(|error| database.error(&error))
    });
    Ok(listed?)
}

/// The beginning of a body as it is logged, without what is not to be.
pub(crate) fn head(body: &[u8], redact: &[String]) -> String {
    let redacted = match serde_json::from_slice::<Value>(body) {
        Ok(mut value) if !redact.is_empty() => {
            hide(&mut value, redact);
            value.to_string()
        }
        // Without its end a body's properties cannot be told apart.
        Err(_) if !redact.is_empty() => "[redacted]".to_owned(),
        _ => String::from_utf8_lossy(&body[..body.len().min(HEAD)]).into_owned(),
    };
    let mut end = redacted.len().min(HEAD);
    while !redacted.is_char_boundary(end) {
        end -= 1;
    }
    redacted[..end].to_owned()
}

fn hide(value: &mut Value, names: &[String]) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if names.contains(name) { *value = "[redacted]".into() } else { hide(value, names) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, names)),
        _ => {}
    }
}

/// A row with what is known before it is made.
pub(crate) fn blank(id: String, gateway: &str, worker: &str) -> Log {
    Log {
        id,
        gateway: gateway.to_owned(),
        worker: worker.to_owned(),
        created_at: now(),
        provider: String::new(),
        model: String::new(),
        path: String::new(),
        step: 0,
        status_code: 0,
        success: false,
        cached: false,
        duration: 0,
        tokens_in: None,
        tokens_out: None,
        cost: None,
        custom_cost: false,
        request_size: 0,
        request_head: None,
        request_head_complete: false,
        response_size: 0,
        response_head: None,
        response_head_complete: false,
        response_content_type: String::new(),
        event_id: None,
        metadata: Map::new(),
        score: None,
        feedback: None,
        ended: true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn rows_are_their_workers_and_can_be_patched() {
        let folder = tempfile::tempdir().unwrap();
        let state = Directory::new(folder.path());
        let logs = Logs::new(state.clone());
        for (id, worker, status) in [("a", "one", 200), ("b", "two", 500)] {
            logs.add(Log { status_code: status, model: "m".into(), ..blank(id.into(), "g", worker) }).await.unwrap();
        }
        assert_eq!(logs.get("one", "g", "a").await.unwrap().status_code, 200);
        for (worker, gateway, id) in [("two", "g", "a"), ("one", "h", "a"), ("one", "g", "x")] {
            assert!(matches!(logs.get(worker, gateway, id).await, Err(GatewayError::NoLog(_))));
            assert!(logs.patch(worker, gateway, id, Patch::default()).await.is_err());
        }
        let patch = |value: Value| serde_json::from_value::<Patch>(value).unwrap();
        logs.patch("one", "g", "a", patch(json!({ "score": 80, "feedback": 1, "metadata": { "k": "v" } })))
            .await
            .unwrap();
        logs.patch("one", "g", "a", patch(json!({ "feedback": null }))).await.unwrap();
        let log = logs.get("one", "g", "a").await.unwrap();
        assert_eq!((log.score, log.feedback, &log.metadata["k"]), (Some(80.0), None, &json!("v")));
        for value in [json!({ "score": 101 }), json!({ "feedback": 2 }), json!({ "metadata": { "a": {} } })] {
            assert!(matches!(logs.patch("one", "g", "a", patch(value)).await, Err(GatewayError::Bad(_))));
        }
        let ids = |filter: Filter| -> Vec<String> {
            list(&state, &Filter { most: 10, ..filter }).unwrap().into_iter().map(|log| log.id).collect()
        };
        assert_eq!(ids(Filter::default()), ["b", "a"]);
        assert_eq!(ids(Filter { status: Some(200), ..Filter::default() }), ["a"]);
        assert_eq!(ids(Filter { after: Some("a".into()), ..Filter::default() }), ["b"]);
        assert!(ids(Filter { since: Some(i64::MAX), ..Filter::default() }).is_empty());
    }

    #[tokio::test]
    async fn a_row_that_was_begun_ends_once_with_what_was_patched() {
        let folder = tempfile::tempdir().unwrap();
        let state = Directory::new(folder.path());
        let logs = Logs::new(state.clone());
        let begun = Log { status_code: 200, ended: false, ..blank("a".into(), "g", "w") };
        logs.add(begun.clone()).await.unwrap();
        logs.add(blank("b".into(), "g", "w")).await.unwrap();
        let patch = Patch { score: Some(json!(5)), ..Patch::default() };
        logs.patch("w", "g", "a", patch).await.unwrap();
        let listed = |ended| list(&state, &Filter { most: 10, ended, ..Filter::default() }).unwrap();
        assert_eq!((listed(false).len(), listed(true).len()), (2, 1));
        logs.add(Log { success: true, tokens_out: Some(3), ended: true, ..begun }).await.unwrap();
        let listed = listed(true);
        assert_eq!(listed.iter().map(|log| log.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((listed[0].success, listed[0].tokens_out, listed[0].score), (true, Some(3), Some(5.0)));
    }

    #[test]
    fn heads_are_short_and_hold_nothing_that_is_hidden() {
        let body = json!({ "messages": [{ "content": "secret" }], "model": "m" }).to_string();
        let head =
            |names: &[&str]| head(body.as_bytes(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert!(head(&[]).contains("secret"));
        assert_eq!(head(&["content"]), r#"{"messages":[{"content":"[redacted]"}],"model":"m"}"#);
        assert_eq!(super::head(b"{\"content\": \"secr", &["content".into()]), "[redacted]");
        assert!(super::head("\u{e9}".repeat(HEAD).as_bytes(), &[]).len() <= HEAD + 3);
    }
}
