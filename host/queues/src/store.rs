//! The tables of a queue and the statements over them. Every function runs inside a transaction of its caller.
//!
//! `visible_ms` alone says who may have a message when: it is the end of a delay, of a retry's wait, or of a lease. So a
//! lease that has ended needs nobody to notice: the message is simply there again.

use host_state::rusqlite::{self, CachedStatement, Connection, Row, params};

use crate::message::{ContentType, Decision, Delivery, MAX_DELAY, NewMessage, Peeked, Place};

pub(crate) const MIGRATIONS: &[&str] = &["
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    sent_ms INTEGER NOT NULL,
    visible_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    lease TEXT,
    content_type TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX messages_visible ON messages (visible_ms, seq);
CREATE INDEX messages_lease ON messages (lease) WHERE lease IS NOT NULL;
CREATE TABLE queue (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    expired INTEGER NOT NULL
) STRICT;
INSERT INTO queue VALUES (1, 0, 0, 0, 0, 0, 0);
CREATE TRIGGER message_in AFTER INSERT ON messages BEGIN
    UPDATE queue SET messages = messages + 1, bytes = bytes + length(new.body);
END;
CREATE TRIGGER message_out AFTER DELETE ON messages BEGIN
    UPDATE queue SET messages = messages - 1, bytes = bytes - length(old.body);
END;
"];

/// Messages that expire in one go; more do the next time.
const EXPIRE_AT_ONCE: i64 = 1000;

type Sql<T> = rusqlite::Result<T>;

fn cached<'c>(connection: &'c Connection, sql: &str) -> Sql<CachedStatement<'c>> {
    connection.prepare_cached(sql)
}

/// What the queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) paused: bool,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
    pub(crate) expired: u64,
    pub(crate) oldest_ms: Option<i64>,
}

pub(crate) fn counts(connection: &Connection) -> Sql<Counts> {
    let oldest_ms = cached(connection, "SELECT sent_ms FROM messages ORDER BY seq LIMIT 1")?;
    let oldest_ms = first(oldest_ms)?;
    cached(connection, "SELECT messages, bytes, paused, dead, dropped, expired FROM queue")?.query_row([], |row| {
        Ok(Counts {
            messages: whole(row, 0)?,
            bytes: whole(row, 1)?,
            paused: row.get(2)?,
            dead: whole(row, 3)?,
            dropped: whole(row, 4)?,
            expired: whole(row, 5)?,
            oldest_ms,
        })
    })
}

fn first(mut statement: CachedStatement<'_>) -> Sql<Option<i64>> {
    statement.query_map([], |row| row.get(0))?.next().transpose()
}

/// A number that this program wrote, which a file from elsewhere may have made negative.
fn whole(row: &Row<'_>, column: usize) -> Sql<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

/// Messages that wait, that are held back, and that somebody has.
pub(crate) fn places(connection: &Connection, now: i64) -> Sql<(u64, u64, u64)> {
    let sql = "SELECT
        count(*) FILTER (WHERE visible_ms <= ?1),
        count(*) FILTER (WHERE visible_ms > ?1 AND lease IS NULL),
        count(*) FILTER (WHERE visible_ms > ?1 AND lease IS NOT NULL)
        FROM messages";
    cached(connection, sql)?.query_row([now], |row| Ok((whole(row, 0)?, whole(row, 1)?, whole(row, 2)?)))
}

pub(crate) fn insert(connection: &Connection, now: i64, messages: &[(String, NewMessage)]) -> Sql<()> {
    let sql =
        "INSERT INTO messages (id, sent_ms, visible_ms, attempts, content_type, body) VALUES (?1, ?2, ?3, 0, ?4, ?5)";
    let mut statement = cached(connection, sql)?;
    for (id, message) in messages {
        let visible = now.saturating_add(i64::from(message.delay) * 1000);
        statement.execute(params![id, now, visible, message.content_type.name(), message.body])?;
    }
    Ok(())
}

/// Takes in messages that another queue has given up on. One that is here already stays as it is.
pub(crate) fn insert_dead(connection: &Connection, now: i64, messages: &[Delivery]) -> Sql<()> {
    let sql = "INSERT OR IGNORE INTO messages (id, sent_ms, visible_ms, attempts, content_type, body)
        VALUES (?1, ?2, ?2, 0, ?3, ?4)";
    let mut statement = cached(connection, sql)?;
    for message in messages {
        statement.execute(params![message.id, now, message.content_type.name(), message.body])?;
    }
    Ok(())
}

/// Removes messages that were sent before `before` and that nobody has.
pub(crate) fn expire(connection: &Connection, now: i64, before: i64) -> Sql<u64> {
    let oldest = first(cached(connection, "SELECT sent_ms FROM messages ORDER BY seq LIMIT 1")?)?;
    if oldest.is_none_or(|oldest| oldest >= before) {
        return Ok(0);
    }
    let sql = "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages ORDER BY seq LIMIT ?1)
        AND sent_ms < ?2 AND (lease IS NULL OR visible_ms <= ?3)";
    let expired = cached(connection, sql)?.execute(params![EXPIRE_AT_ONCE, before, now])?;
    count(connection, "expired", expired)?;
    Ok(expired as u64)
}

/// Adds to one of the counts.
fn count(connection: &Connection, column: &str, number: usize) -> Sql<()> {
    if number > 0 {
        cached(connection, &format!("UPDATE queue SET {column} = {column} + ?1"))?.execute([number as i64])?;
    }
    Ok(())
}

/// What could be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Messages that wait, counted up to a batch.
    pub(crate) ready: usize,
    /// Since when the first of them waits.
    pub(crate) since_ms: Option<i64>,
    /// When the next will be there.
    pub(crate) next_ms: Option<i64>,
    pub(crate) paused: bool,
}

pub(crate) fn look(connection: &Connection, now: i64, batch: usize) -> Sql<Look> {
    let sql = "SELECT count(*), min(visible_ms) FROM
        (SELECT visible_ms FROM messages WHERE visible_ms <= ?1 ORDER BY visible_ms LIMIT ?2)";
    let (ready, since_ms) = cached(connection, sql)?
        .query_row(params![now, batch as i64], |row| Ok((whole(row, 0)? as usize, row.get(1)?)))?;
    let next_ms = cached(connection, "SELECT min(visible_ms) FROM messages WHERE visible_ms > ?1")?
        .query_row([now], |row| row.get(0))?;
    let paused = cached(connection, "SELECT paused FROM queue")?.query_row([], |row| row.get(0))?;
    Ok(Look { ready, since_ms, next_ms, paused })
}

/// How messages are leased.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The lease's own name.
    pub(crate) token: String,
    pub(crate) until_ms: i64,
    pub(crate) batch: usize,
    /// Deliveries that a message gets at most.
    pub(crate) deliveries: u32,
}

/// Leases the messages that have waited longest. Those in the second list have had all their deliveries, and their last
/// lease ended without a word: they are leased to be given up.
pub(crate) fn lease(connection: &Connection, now: i64, terms: &Terms) -> Sql<(Vec<Delivery>, Vec<Delivery>)> {
    let paused: bool = cached(connection, "SELECT paused FROM queue")?.query_row([], |row| row.get(0))?;
    if paused {
        return Ok((Vec::new(), Vec::new()));
    }
    let sql = "SELECT seq, id, sent_ms, attempts, content_type, body FROM messages
        WHERE visible_ms <= ?1 ORDER BY visible_ms, seq LIMIT ?2";
    let found: Vec<Delivery> =
        cached(connection, sql)?.query_map(params![now, terms.batch as i64], delivery)?.collect::<Sql<_>>()?;
    let (mut leased, mut dead) = (Vec::new(), Vec::new());
    let mut take = cached(connection, "UPDATE messages SET lease = ?1, visible_ms = ?2, attempts = ?3 WHERE seq = ?4")?;
    for mut message in found {
        let over = message.attempts >= terms.deliveries;
        if !over {
            message.attempts = message.attempts.saturating_add(1);
        }
        take.execute(params![terms.token, terms.until_ms, message.attempts, message.seq])?;
        let list = if over { &mut dead } else { &mut leased };
        list.push(message);
    }
    Ok((leased, dead))
}

fn delivery(row: &Row<'_>) -> Sql<Delivery> {
    Ok(Delivery {
        seq: row.get(0)?,
        id: row.get(1)?,
        sent_ms: row.get(2)?,
        attempts: row.get::<_, i64>(3)?.try_into().unwrap_or(u32::MAX),
        content_type: content_type(row, 4)?,
        body: row.get(5)?,
    })
}

/// A type that this version does not know can only be passed on as bytes.
fn content_type(row: &Row<'_>, column: usize) -> Sql<ContentType> {
    let name: String = row.get(column)?;
    Ok(ContentType::of(&name).unwrap_or(ContentType::Bytes))
}

/// Makes a lease last longer. Gives how many messages it still holds.
pub(crate) fn renew(connection: &Connection, token: &str, until_ms: i64) -> Sql<usize> {
    cached(connection, "UPDATE messages SET visible_ms = ?1 WHERE lease = ?2")?.execute(params![until_ms, token])
}

/// Carries out what was decided of messages that `token` still holds; of others it says nothing. Gives those that have
/// had all their deliveries, which stay leased.
pub(crate) fn settle(
    connection: &Connection,
    now: i64,
    token: &str,
    deliveries: u32,
    retry_delay: u32,
    decisions: &[(i64, Decision)],
) -> Sql<Vec<Delivery>> {
    let mut ack = cached(connection, "DELETE FROM messages WHERE seq = ?1 AND lease = ?2")?;
    let retry = "UPDATE messages SET lease = NULL, visible_ms = ?3 WHERE seq = ?1 AND lease = ?2 AND attempts < ?4";
    let mut retry = cached(connection, retry)?;
    let back = "UPDATE messages SET lease = NULL, visible_ms = ?3, attempts = max(attempts - 1, 0)
        WHERE seq = ?1 AND lease = ?2";
    let mut back = cached(connection, back)?;
    let sql = "SELECT seq, id, sent_ms, attempts, content_type, body FROM messages WHERE seq = ?1 AND lease = ?2";
    let mut over = cached(connection, sql)?;
    let mut dead = Vec::new();
    for (seq, decision) in decisions {
        match decision {
            Decision::Ack => {
                ack.execute(params![seq, token])?;
            }
            Decision::Return => {
                back.execute(params![seq, token, now])?;
            }
            Decision::Retry { delay } => {
                let delay = delay.unwrap_or(retry_delay).min(MAX_DELAY);
                let visible = now.saturating_add(i64::from(delay) * 1000);
                if retry.execute(params![seq, token, visible, deliveries])? == 0 {
                    let found = over.query_map(params![seq, token], delivery)?.collect::<Sql<Vec<_>>>()?;
                    dead.extend(found);
                }
            }
        }
    }
    Ok(dead)
}

/// Removes messages that were given up and that `token` still holds.
pub(crate) fn bury(connection: &Connection, token: &str, messages: &[Delivery], dropped: bool) -> Sql<()> {
    let mut remove = cached(connection, "DELETE FROM messages WHERE seq = ?1 AND lease = ?2")?;
    let mut removed = 0;
    for message in messages {
        removed += remove.execute(params![message.seq, token])?;
    }
    count(connection, if dropped { "dropped" } else { "dead" }, removed)
}

/// Ends all leases: whoever had them is gone.
pub(crate) fn release(connection: &Connection, now: i64) -> Sql<usize> {
    cached(connection, "UPDATE messages SET lease = NULL, visible_ms = min(visible_ms, ?1) WHERE lease IS NOT NULL")?
        .execute([now])
}

pub(crate) fn peek(connection: &Connection, now: i64, most: usize) -> Sql<Vec<Peeked>> {
    let sql = "SELECT id, sent_ms, attempts, visible_ms, lease IS NOT NULL, content_type, body
        FROM messages ORDER BY seq LIMIT ?1";
    let peeked = |row: &Row<'_>| {
        let (visible_ms, leased): (i64, bool) = (row.get(3)?, row.get(4)?);
        Ok(Peeked {
            id: row.get(0)?,
            sent_ms: row.get(1)?,
            attempts: row.get::<_, i64>(2)?.try_into().unwrap_or(u32::MAX),
            place: match (visible_ms <= now, leased) {
                (true, _) => Place::Ready,
                (false, true) => Place::Leased,
                (false, false) => Place::Delayed,
            },
            content_type: content_type(row, 5)?,
            body: row.get(6)?,
        })
    };
    cached(connection, sql)?.query_map([most as i64], peeked)?.collect()
}

/// Removes up to `most` messages, those that somebody has among them.
pub(crate) fn purge(connection: &Connection, most: usize) -> Sql<usize> {
    let sql = "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages ORDER BY seq LIMIT ?1)";
    cached(connection, sql)?.execute([most as i64])
}

pub(crate) fn set_paused(connection: &Connection, paused: bool) -> Sql<()> {
    cached(connection, "UPDATE queue SET paused = ?1")?.execute([paused]).map(|_| ())
}
