//! Whole answers, kept for the next who asks the same.
//!
//! An answer is found again by a digest of everything that makes it: gateway, worker, provider, endpoint, the headers that
//! a provider may answer differently to, and the body with its properties in order. What is kept of a gateway is bounded in
//! bytes, and what was used longest ago goes first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use host_state::rusqlite::{self, OptionalExtension as _, Row, params};
use host_state::{Database, Directory, StateError};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::usage::Tokens;

const MIGRATIONS: &[&str] = &["
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    gateway TEXT NOT NULL,
    -- What questions that may mean the same have in common, and the question's vector; null where meaning counts for nothing.
    scope BLOB,
    vector BLOB,
    expires INTEGER NOT NULL,
    used INTEGER NOT NULL,
    size INTEGER NOT NULL,
    status INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    tokens_in INTEGER,
    tokens_out INTEGER,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX answers_used ON answers (gateway, used, size);
CREATE INDEX answers_scope ON answers (scope) WHERE scope IS NOT NULL;
CREATE INDEX answers_expires ON answers (expires);
"];

/// How coarsely the time of last use is kept, so that not every answer from the cache is a write.
const USED_STEP: i64 = 60_000;
/// What a row takes beside its body, roughly.
const ROW: usize = 512;
/// Questions that a new one is compared with.
const COMPARED: usize = 1000;

/// The largest answer that is kept.
pub(crate) const MAX_KEPT: usize = 8 << 20;

/// A digest by which an answer is found.
pub(crate) type Key = [u8; 32];

/// An answer out of the cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) tokens: Tokens,
    pub(crate) body: Bytes,
}

/// Where a question stands among those that may mean the same.
#[derive(Debug, Clone)]
pub(crate) struct Meaning {
    pub(crate) scope: Key,
    pub(crate) vector: Vec<f32>,
    pub(crate) threshold: f32,
}

pub(crate) struct Cache {
    state: Directory,
    database: Arc<Mutex<Option<Database>>>,
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A digest of parts, which cannot run into each other.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A JSON text that is the same for the same value, however its properties are ordered.
pub(crate) fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(name, _)| *name);
                Value::Object(entries.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

/// A database of the gateway, opened on a thread that may block.
pub(crate) async fn open(
    state: &Directory,
    place: &Arc<Mutex<Option<Database>>>,
    name: &'static str,
    migrations: &'static [&'static str],
) -> Result<Database, StateError> {
    let opened = || place.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(database) = opened() {
        return Ok(database);
    }
    let (state, place) = (state.clone(), place.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let database = state.database("gateway", name, migrations)?;
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(database.clone());
        Ok(database)
    });
    opening.await.unwrap_or_else(|_| Err(StateError::Name(name.to_owned())))
}

impl Cache {
    pub(crate) fn new(state: Directory) -> Self {
        Self { state, database: Arc::default() }
    }

    async fn database(&self) -> Result<Database, StateError> {
        open(&self.state, &self.database, "cache", MIGRATIONS).await
    }

    /// The answer of this key, or of the question that means the same.
    pub(crate) async fn find(&self, key: Key, meaning: Option<Meaning>) -> Result<Option<Kept>, StateError> {
        let database = self.database().await?;
        let failed = database.clone();
        let found = database
            .read(move |connection| -> Result<Option<(Key, i64, Kept)>, StateError> {
                let at = |error| failed.error(&error);
                let now = now();
                let columns = "used, status, content_type, tokens_in, tokens_out, body";
                let mut exact = connection
                    .prepare_cached(&format!("SELECT {columns} FROM answers WHERE key = ?1 AND expires > ?2"))
                    .map_err(at)?;
                let mut get = |key: Key| {
                    let row = exact.query_row(params![key, now], |row| {
                        let kept = Kept {
                            status: row.get(1)?,
                            content_type: row.get(2)?,
                            tokens: Tokens { input: count(row, 3)?, output: count(row, 4)? },
                            body: row.get::<_, Vec<u8>>(5)?.into(),
                        };
                        Ok((key, row.get(0)?, kept))
                    });
                    row.optional().map_err(at)
                };
                if let Some(found) = get(key)? {
                    return Ok(Some(found));
                }
                let Some(meaning) = meaning else { return Ok(None) };
                let mut near = connection
                    .prepare_cached(
                        "SELECT key, vector FROM answers WHERE scope = ?1 AND expires > ?2 ORDER BY used DESC LIMIT ?3",
                    )
                    .map_err(at)?;
                let rows = near.query_map(params![meaning.scope, now, COMPARED as i64], |row| {
                    Ok((row.get::<_, Key>(0)?, row.get::<_, Vec<u8>>(1)?))
                });
                let mut best: Option<(f32, Key)> = None;
                for row in rows.map_err(at)? {
                    let (key, vector) = row.map_err(at)?;
                    let cosine = cosine(&meaning.vector, &vector);
                    if cosine >= meaning.threshold && best.is_none_or(|(known, _)| cosine > known) {
                        best = Some((cosine, key));
                    }
                }
                best.map_or(Ok(None), |(_, key)| get(key))
            })
            .await?;
        let Some((key, used, kept)) = found else { return Ok(None) };
        if now() - used > USED_STEP {
            let failed = database.clone();
            let touched = database.write(move |connection| -> Result<usize, StateError> {
                let touch = connection.execute("UPDATE answers SET used = ?2 WHERE key = ?1", params![key, now()]);
                touch.map_err(|error| failed.error(&error))
            });
            touched.await?;
        }
        Ok(Some(kept))
    }

    /// Keeps an answer, and lets go of what is over or too much.
    pub(crate) async fn keep(
        &self,
        gateway: String,
        key: Key,
        meaning: Option<Meaning>,
        ttl: Duration,
        most: u64,
        kept: Kept,
    ) -> Result<(), StateError> {
        let database = self.database().await?;
        let failed = database.clone();
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        database
            .write(move |connection| -> Result<(), StateError> {
                let write = || {
                    let now = now();
                    let (scope, vector) = meaning.map(|meaning| (meaning.scope, bytes(&meaning.vector))).unzip();
                    connection.execute("DELETE FROM answers WHERE expires <= ?1", [now])?;
                    connection.execute(
                        "INSERT OR REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                        params![
                            key,
                            gateway,
                            scope,
                            vector,
                            now.saturating_add(ttl),
                            now,
                            (kept.body.len() + ROW) as i64,
                            kept.status,
                            kept.content_type,
                            kept.tokens.input.map(|count| count as i64),
                            kept.tokens.output.map(|count| count as i64),
                            &kept.body[..]
                        ],
                    )?;
                    let most = i64::try_from(most).unwrap_or(i64::MAX);
                    let mut sum: i64 = connection
                        .prepare_cached("SELECT COALESCE(SUM(size), 0) FROM answers WHERE gateway = ?1")?
                        .query_row([&gateway], |row| row.get(0))?;
                    while sum > most {
                        let oldest: Option<(Key, i64)> = connection
                            .prepare_cached("SELECT key, size FROM answers WHERE gateway = ?1 ORDER BY used LIMIT 1")?
                            .query_row([&gateway], |row| Ok((row.get(0)?, row.get(1)?)))
                            .optional()?;
                        let Some((key, size)) = oldest else { break };
                        connection.execute("DELETE FROM answers WHERE key = ?1", [key])?;
                        sum -= size;
                    }
                    Ok(())
                };
                write().map_err(|error| failed.error(&error))
            })
            .await
    }
}

fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A count of tokens.
pub(crate) fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(at)?.and_then(|count| u64::try_from(count).ok()))
}

/// Of two vectors of length 1. Vectors of different lengths have nothing in common.
fn cosine(one: &[f32], other: &[u8]) -> f32 {
    let (chunks, rest) = other.as_chunks::<4>();
    if chunks.len() != one.len() || !rest.is_empty() {
        return f32::NEG_INFINITY;
    }
    one.iter().zip(chunks).map(|(one, other)| one * f32::from_le_bytes(*other)).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(body: &str) -> Kept {
        let tokens = Tokens { input: Some(1), output: None };
        Kept { status: 200, content_type: "application/json".into(), tokens, body: body.to_owned().into() }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn equal_values_have_one_text() {
        let (one, other) = (json!({ "a": 1, "b": [{ "c": 2, "d": 3 }] }), json!({ "b": [{ "d": 3, "c": 2 }], "a": 1 }));
        assert_eq!(canonical(&one), canonical(&other));
        assert_ne!(digest([&b"ab"[..], b"c"]), digest([&b"a"[..], b"bc"]));
    }

    #[tokio::test]
    async fn answers_are_kept_for_their_time_and_within_their_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Directory::new(folder.path()));
        let keep = async |n: u8, ttl, body: &str| {
            cache.keep("g".into(), [n; 32], None, ttl, 4000, kept(body)).await.unwrap();
        };
        keep(1, HOUR, "one").await;
        assert_eq!(cache.find([1; 32], None).await.unwrap(), Some(kept("one")));
        keep(2, Duration::ZERO, "over").await;
        assert_eq!(cache.find([2; 32], None).await.unwrap(), None);
        for n in 3..20 {
            keep(n, HOUR, &"x".repeat(500)).await;
        }
        assert_eq!(cache.find([1; 32], None).await.unwrap(), None, "the oldest had to go");
        assert!(cache.find([19; 32], None).await.unwrap().is_some());
        let other = Cache::new(Directory::new(folder.path()));
        assert!(other.find([19; 32], None).await.unwrap().is_some(), "it is there after a restart");
    }

    #[tokio::test]
    async fn questions_that_mean_the_same_have_one_answer() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Directory::new(folder.path()));
        let meaning =
            |scope: u8, vector: [f32; 2]| Some(Meaning { scope: [scope; 32], vector: vector.to_vec(), threshold: 0.9 });
        cache.keep("g".into(), [1; 32], meaning(1, [1.0, 0.0]), HOUR, 1 << 20, kept("one")).await.unwrap();
        assert_eq!(cache.find([2; 32], meaning(1, [0.95, 0.3])).await.unwrap(), Some(kept("one")));
        assert_eq!(cache.find([2; 32], meaning(1, [0.5, 0.8])).await.unwrap(), None);
        assert_eq!(cache.find([2; 32], meaning(2, [1.0, 0.0])).await.unwrap(), None, "asked otherwise");
    }
}
