//! What an index keeps, as tables: the source of truth.
//!
//! Every change of an index is a mutation with a number; a vector carries the number of the last that changed it, and an
//! id that was deleted is kept with its own. So whoever follows, in this process or another, asks for what came after
//! the number it has seen. The log keeps the last [`KEPT`] mutations; who is further behind begins anew.

use std::time::{SystemTime, UNIX_EPOCH};

use host_state::rusqlite::{Connection, OptionalExtension as _, Result, params};

use crate::metadata::PropertyKind;
use crate::metric::Metric;
use crate::request::Vector;

/// The folder of the state.
pub(crate) const FOLDER: &str = "vectorize";
/// Mutations that followers may be behind.
const KEPT: i64 = 10_000;

/// Applied in order; see [`host_state::Database::open`].
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE config (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        dimensions INTEGER NOT NULL,
        metric TEXT NOT NULL,
        description TEXT,
        created INTEGER NOT NULL,
        forgotten INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE mutations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        mutation TEXT NOT NULL,
        kind TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE vectors (
        row INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        namespace TEXT,
        metadata TEXT,
        seq INTEGER NOT NULL,
        vector BLOB NOT NULL
    ) STRICT;
    CREATE INDEX vectors_by_seq ON vectors (seq);
    CREATE TABLE removed (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX removed_by_seq ON removed (seq);
    CREATE TABLE properties (name TEXT PRIMARY KEY, kind TEXT NOT NULL) STRICT, WITHOUT ROWID;
"];

/// What an index is, as it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexConfig {
    /// Numbers of each vector.
    pub dimensions: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// For people.
    pub description: Option<String>,
}

/// An index's row, and when it was created, in RFC 3339.
pub(crate) fn config(connection: &Connection) -> Result<Option<(IndexConfig, String)>> {
    let mut statement = connection.prepare_cached(
        "SELECT dimensions, metric, description, strftime('%Y-%m-%dT%H:%M:%fZ', created / 1000.0, 'unixepoch') FROM config",
    )?;
    let row = statement.query_row([], |row| {
        let metric: String = row.get(1)?;
        let config = IndexConfig {
            dimensions: row.get::<_, u32>(0)? as usize,
            metric: metric.parse().unwrap_or(Metric::Cosine),
            description: row.get(2)?,
        };
        Ok((config, row.get(3)?))
    });
    row.optional()
}

/// Writes an index's row; false where there is one.
pub(crate) fn create(connection: &Connection, config: &IndexConfig) -> Result<bool> {
    let made = connection.execute(
        "INSERT OR IGNORE INTO config (one, dimensions, metric, description, created) VALUES (1, ?1, ?2, ?3, ?4)",
        params![config.dimensions as i64, config.metric.name(), config.description, now()],
    )?;
    Ok(made > 0)
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Begins a mutation: its number and its id.
fn mutation(connection: &Connection, kind: &str) -> Result<(i64, String)> {
    let id = uuid::Uuid::new_v4().to_string();
    let mut statement =
        connection.prepare_cached("INSERT INTO mutations (mutation, kind, at) VALUES (?1, ?2, ?3) RETURNING seq")?;
    let seq: i64 = statement.query_row(params![id, kind, now()], |row| row.get(0))?;
    if seq % 100 == 0 && seq > KEPT {
        let forgotten = seq - KEPT;
        connection.execute("DELETE FROM mutations WHERE seq <= ?1", [forgotten])?;
        connection.execute("DELETE FROM removed WHERE seq <= ?1", [forgotten])?;
        connection.execute("UPDATE config SET forgotten = ?1", [forgotten])?;
    }
    Ok((seq, id))
}

/// What happens to a vector whose id is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It stays as it was.
    Keep,
    /// It is replaced, whole.
    Replace,
}

/// Keeps vectors. A vector that is replaced by an equal one has not changed, so that a corpus that is written again costs
/// followers nothing.
pub(crate) fn put(connection: &Connection, vectors: &[Vector], taken: Taken) -> Result<String> {
    let (kind, conflict) = match taken {
        Taken::Keep => ("insert", "DO NOTHING"),
        Taken::Replace => (
            "upsert",
            "DO UPDATE SET namespace = excluded.namespace, metadata = excluded.metadata, seq = excluded.seq, \
             vector = excluded.vector WHERE namespace IS NOT excluded.namespace OR metadata IS NOT excluded.metadata \
             OR vector IS NOT excluded.vector",
        ),
    };
    let (seq, id) = mutation(connection, kind)?;
    let mut statement = connection.prepare_cached(&format!(
        "INSERT INTO vectors (id, namespace, metadata, seq, vector) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) {conflict}"
    ))?;
    let mut bytes = Vec::new();
    for vector in vectors {
        bytes.clear();
        bytes.extend(vector.values.iter().flat_map(|value| value.to_le_bytes()));
        statement.execute(params![vector.id, vector.namespace, vector.metadata, seq, bytes])?;
    }
    Ok(id)
}

/// Deletes vectors. Ids that are not there are passed over.
pub(crate) fn delete(connection: &Connection, ids: &[String]) -> Result<String> {
    let (seq, mutation) = mutation(connection, "delete")?;
    let mut delete = connection.prepare_cached("DELETE FROM vectors WHERE id = ?1")?;
    let mut remember = connection
        .prepare_cached("INSERT INTO removed (id, seq) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET seq = ?2")?;
    for id in ids {
        if delete.execute([id])? > 0 {
            remember.execute(params![id, seq])?;
        }
    }
    Ok(mutation)
}

/// Properties with a metadata index, by name.
pub(crate) fn properties(connection: &Connection) -> Result<Vec<(String, PropertyKind)>> {
    let mut statement = connection.prepare_cached("SELECT name, kind FROM properties ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        let kind: String = row.get(1)?;
        Ok((row.get(0)?, kind.parse().unwrap_or(PropertyKind::String)))
    })?;
    rows.collect()
}

pub(crate) fn create_property(connection: &Connection, name: &str, kind: PropertyKind) -> Result<String> {
    let (_, mutation) = mutation(connection, "create-metadata-index")?;
    connection.execute("INSERT INTO properties (name, kind) VALUES (?1, ?2)", [name, kind.name()])?;
    Ok(mutation)
}

/// Deletes a metadata index; none where there is none.
pub(crate) fn delete_property(connection: &Connection, name: &str) -> Result<Option<String>> {
    if connection.execute("DELETE FROM properties WHERE name = ?1", [name])? == 0 {
        return Ok(None);
    }
    Ok(Some(mutation(connection, "delete-metadata-index")?.1))
}

/// The number of the last mutation, 0 before the first.
pub(crate) fn last(connection: &Connection) -> Result<i64> {
    let mut statement = connection.prepare_cached("SELECT seq FROM mutations ORDER BY seq DESC LIMIT 1")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// The number up to which mutations were forgotten.
pub(crate) fn forgotten(connection: &Connection) -> Result<i64> {
    Ok(connection.query_row("SELECT forgotten FROM config", [], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// The id of a mutation and when it was made, in RFC 3339.
pub(crate) fn mutation_of(connection: &Connection, seq: i64) -> Result<Option<(String, String)>> {
    let mut statement = connection.prepare_cached(
        "SELECT mutation, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') FROM mutations WHERE seq = ?1",
    )?;
    statement.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// A vector as it is kept.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) namespace: Option<String>,
    pub(crate) metadata: Option<String>,
    pub(crate) vector: Vec<u8>,
}

/// Calls `each` with every vector that a mutation after `seq` changed.
pub(crate) fn changed(connection: &Connection, seq: i64, mut each: impl FnMut(Row)) -> Result<()> {
    let columns = "SELECT id, namespace, metadata, vector FROM vectors";
    // The order of rows is that of insertion, which makes the graph of a store the same in every process.
    let condition = if seq == 0 { "ORDER BY row" } else { "WHERE seq > ?1 ORDER BY seq, row" };
    let mut statement = connection.prepare_cached(&format!("{columns} {condition}"))?;
    let mut rows = if seq == 0 { statement.query([])? } else { statement.query([seq])? };
    while let Some(row) = rows.next()? {
        each(Row { id: row.get(0)?, namespace: row.get(1)?, metadata: row.get(2)?, vector: row.get(3)? });
    }
    Ok(())
}

/// Calls `each` with every id that a mutation after `seq` deleted.
pub(crate) fn removed(connection: &Connection, seq: i64, mut each: impl FnMut(&str)) -> Result<()> {
    let mut statement = connection.prepare_cached("SELECT id FROM removed WHERE seq > ?1")?;
    let mut rows = statement.query([seq])?;
    while let Some(row) = rows.next()? {
        each(row.get_ref(0)?.as_str()?);
    }
    Ok(())
}

/// Calls `each` with the metadata of every vector that has some.
pub(crate) fn metadata(connection: &Connection, mut each: impl FnMut(&str, &str)) -> Result<()> {
    let mut statement = connection.prepare_cached("SELECT id, metadata FROM vectors WHERE metadata IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
    }
    Ok(())
}

pub(crate) fn get(connection: &Connection, id: &str) -> Result<Option<Row>> {
    let mut statement =
        connection.prepare_cached("SELECT id, namespace, metadata, vector FROM vectors WHERE id = ?1")?;
    let row = statement.query_row([id], |row| {
        Ok(Row { id: row.get(0)?, namespace: row.get(1)?, metadata: row.get(2)?, vector: row.get(3)? })
    });
    row.optional()
}

/// Ids after `after`, in order.
pub(crate) fn ids(connection: &Connection, after: &str, count: usize) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT id FROM vectors WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = statement.query_map(params![after, count as i64], |row| row.get(0))?;
    rows.collect()
}

/// The numbers of a blob; none where it has not as many as it should.
pub(crate) fn floats(bytes: &[u8], dimensions: usize) -> Option<Vec<f32>> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    (rest.is_empty() && numbers.len() == dimensions)
        .then(|| numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
