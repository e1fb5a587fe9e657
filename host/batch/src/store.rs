//! Batches on the disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host_state::rusqlite::{OptionalExtension as _, params};
use host_state::{Database, Directory, StateError};
use serde_json::{Value, json};

use crate::Progress;

const MIGRATIONS: &[&str] = &["
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(16)))),
    worker TEXT NOT NULL,
    model TEXT NOT NULL,
    created INTEGER NOT NULL,
    -- When the last of its requests was answered; null before.
    ended INTEGER
);
CREATE INDEX batches_open ON batches (seq) WHERE ended IS NULL;
CREATE TABLE requests (
    batch INTEGER NOT NULL REFERENCES batches (seq) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    reference TEXT,
    body TEXT NOT NULL,
    -- Null before it is answered.
    result TEXT,
    success INTEGER,
    PRIMARY KEY (batch, at)
) WITHOUT ROWID;
"];

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Next {
    batch: i64,
    at: i64,
    created: i64,
    pub(crate) worker: String,
    pub(crate) model: String,
    pub(crate) body: String,
}

impl Next {
    /// Whether its batch was queued so long ago.
    pub(crate) fn has_waited(&self, time: Duration) -> bool {
        now().saturating_sub(self.created) >= i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    }
}

pub(crate) struct Store {
    state: Directory,
    database: Arc<Mutex<Option<Database>>>,
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    pub(crate) fn new(state: Directory) -> Self {
        Self { state, database: Arc::default() }
    }

    /// Whether anything was ever kept.
    pub(crate) fn exists(&self) -> bool {
        self.state.file("batch", "batches").is_ok_and(|file| file.exists())
    }

    async fn database(&self) -> Result<Database, StateError> {
        if let Some(database) = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(database);
        }
        let (state, place) = (self.state.clone(), self.database.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let database = state.database("batch", "batches", MIGRATIONS)?;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(database.clone());
            Ok(database)
        });
        opening.await.unwrap_or_else(|_| Err(StateError::Name("batches".to_owned())))
    }

    /// Adds a batch, and gives its id; none where the worker has too many that wait.
    pub(crate) async fn add(
        &self,
        worker: &str,
        model: &str,
        requests: Vec<(Option<String>, String)>,
        most: i64,
    ) -> Result<Option<String>, StateError> {
        let (worker, model) = (worker.to_owned(), model.to_owned());
        let database = self.database().await?;
        let failed = database.clone();
        database
            .write(move |connection| {
                let add = || {
                    let open: i64 = connection.query_row(
                        "SELECT COUNT(*) FROM batches WHERE worker = ?1 AND ended IS NULL",
                        [&worker],
                        |row| row.get(0),
                    )?;
                    if open >= most {
                        return Ok(None);
                    }
                    let sql = "INSERT INTO batches (worker, model, created) VALUES (?1, ?2, ?3) RETURNING seq, id";
                    let (batch, id): (i64, String) =
                        connection
                            .query_row(sql, params![worker, model, now()], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    let mut insert = connection
                        .prepare_cached("INSERT INTO requests (batch, at, reference, body) VALUES (?1, ?2, ?3, ?4)")?;
                    for (at, (reference, body)) in requests.iter().enumerate() {
                        insert.execute(params![batch, at as i64, reference, body])?;
                    }
                    Ok(Some(id))
                };
                add().map_err(|error| failed.error(&error))
            })
            .await
    }

    /// The request that is run next: of the oldest batch. Forgets batches whose results have been kept for `keep`.
    pub(crate) async fn next(&self, keep: Duration) -> Result<Option<Next>, StateError> {
        let database = self.database().await?;
        let over = now().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let failed = database.clone();
        let any_over = database.read(move |connection| -> Result<bool, StateError> {
            let sql = "SELECT EXISTS (SELECT 1 FROM batches WHERE ended IS NOT NULL AND ended <= ?1)";
            connection.query_row(sql, [over], |row| row.get(0)).map_err(|error| failed.error(&error))
        });
        if any_over.await? {
            let failed = database.clone();
            let forgotten = database.write(move |connection| -> Result<usize, StateError> {
                let sql = "DELETE FROM batches WHERE ended IS NOT NULL AND ended <= ?1";
                connection.execute(sql, [over]).map_err(|error| failed.error(&error))
            });
            forgotten.await?;
        }
        let failed = database.clone();
        database
            .read(move |connection| -> Result<Option<Next>, StateError> {
                let sql = "SELECT batch, at, created, worker, model, body FROM batches JOIN requests ON batch = seq \
                    WHERE ended IS NULL AND result IS NULL ORDER BY batch, at LIMIT 1";
                let row = connection.query_row(sql, [], |row| {
                    Ok(Next {
                        batch: row.get(0)?,
                        at: row.get(1)?,
                        created: row.get(2)?,
                        worker: row.get(3)?,
                        model: row.get(4)?,
                        body: row.get(5)?,
                    })
                });
                row.optional().map_err(|error| failed.error(&error))
            })
            .await
    }

    /// Keeps a result, and ends the batch if it was its last.
    pub(crate) async fn answered(&self, next: &Next, result: Value, success: bool) -> Result<(), StateError> {
        let (batch, at) = (next.batch, next.at);
        let database = self.database().await?;
        let failed = database.clone();
        database
            .write(move |connection| {
                let keep = || {
                    // The first answer stays, should another process have run the request too.
                    let sql = "UPDATE requests SET result = ?3, success = ?4 \
                        WHERE batch = ?1 AND at = ?2 AND result IS NULL";
                    connection.execute(sql, params![batch, at, result.to_string(), success])?;
                    let sql = "UPDATE batches SET ended = ?2 WHERE seq = ?1 AND ended IS NULL AND NOT EXISTS \
                        (SELECT 1 FROM requests WHERE batch = ?1 AND result IS NULL)";
                    connection.execute(sql, params![batch, now()])
                };
                keep().map(drop).map_err(|error| failed.error(&error))
            })
            .await
    }

    /// How far a batch of the worker's is; none where there is no such batch.
    pub(crate) async fn progress(&self, worker: &str, model: &str, id: &str) -> Result<Option<Progress>, StateError> {
        let (worker, model, id) = (worker.to_owned(), model.to_owned(), id.to_owned());
        let database = self.database().await?;
        let failed = database.clone();
        database
            .read(move |connection| -> Result<Option<Progress>, StateError> {
                let look = || {
                    let sql = "SELECT seq, ended IS NOT NULL FROM batches WHERE id = ?1 AND worker = ?2 AND model = ?3";
                    let found: Option<(i64, bool)> = connection
                        .query_row(sql, params![id, worker, model], |row| Ok((row.get(0)?, row.get(1)?)))
                        .optional()?;
                    let Some((batch, ended)) = found else { return Ok(None) };
                    if !ended {
                        let sql = "SELECT EXISTS (SELECT 1 FROM requests WHERE batch = ?1 AND result IS NOT NULL)";
                        let begun: bool = connection.query_row(sql, [batch], |row| row.get(0))?;
                        return Ok(Some(if begun { Progress::Running } else { Progress::Queued }));
                    }
                    let sql = "SELECT at, result, success, reference FROM requests WHERE batch = ?1 ORDER BY at";
                    let mut statement = connection.prepare_cached(sql)?;
                    let rows = statement.query_map([batch], |row| {
                        let row: (i64, String, bool, Option<String>) =
                            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                        Ok(row)
                    })?;
                    Ok(Some(Progress::Done(document(rows.collect::<Result<Vec<_>, _>>()?))))
                };
                look().map_err(|error| failed.error(&error))
            })
            .await
    }
}

fn document(rows: Vec<(i64, String, bool, Option<String>)>) -> Value {
    let mut usage = [0u64; 2];
    let responses: Vec<Value> = rows
        .into_iter()
        .map(|(id, result, success, reference)| {
            let result: Value = serde_json::from_str(&result).unwrap_or_default();
            for (sum, name) in usage.iter_mut().zip(["prompt_tokens", "completion_tokens"]) {
                *sum += result.pointer(&format!("/usage/{name}")).and_then(Value::as_u64).unwrap_or(0);
            }
            json!({ "id": id, "result": result, "success": success, "external_reference": reference })
        })
        .collect();
    let [prompt, completion] = usage;
    let usage =
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    json!({ "responses": responses, "usage": usage })
}
