//! The outbox: records of changes, committed with them, that wait in the database for the log.
//!
//! Whoever can write the database could put records there, change or remove some. So each has a MAC, over its number too;
//! the head of the chain says up to which number they are in the log, and the digest of the database's state covers how
//! many there have been. Homes of earlier programs have neither until the first record is added to their log.

use rusqlite::{Connection, OptionalExtension, params};

use super::event::Rendered;
use crate::crypto::secret::SecretKey;
use crate::kms::seal;
use crate::kms::store::{RECORDS, meta, set_meta};

/// What waits.
pub struct Outbox {
    /// All rows that were read.
    ids: Vec<i64>,
    /// Those that the key manager wrote, in order.
    pub records: Vec<Rendered>,
    /// How many it did not write.
    pub forged: u64,
    /// How many were taken out unread.
    pub missing: u64,
    /// How many records of changes there have been.
    pub end: u64,
}

fn mac(id: u64, event: &Rendered, key: &SecretKey<32>) -> [u8; 32] {
    let [event_id, head, tail] = [&event.event_id, &event.head, &event.tail].map(String::as_bytes);
    seal::mac(key, &[&seal::framed(&[b"kmsfs audit outbox v1", &id.to_be_bytes(), event_id, head, tail])])
}

/// How many records of changes there have been; earlier programs did not count them, but SQLite gave them numbers.
fn count(from: &Connection) -> rusqlite::Result<u64> {
    if let Some(count) = meta(RECORDS, from)? {
        return Ok(count);
    }
    let mut statement = from.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'audit_outbox'")?;
    let last: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(last.map_or(0, |last| last as u64))
}

/// Puts in the record of a change, within its transaction; answers how many there have been with it.
pub fn wait(event: &Rendered, key: &SecretKey<32>, to: &Connection) -> rusqlite::Result<u64> {
    let id = count(to)? + 1;
    set_meta(RECORDS, id, to)?;
    to.prepare_cached("INSERT INTO audit_outbox(id, event_id, head, tail, mac) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id as i64, event.event_id, event.head, event.tail, &mac(id, event, key)[..]])?;
    Ok(id)
}

impl Outbox {
    /// Reads what waits, where the first `chained` are in the log; `None` if no program that counts has written it yet.
    pub fn read(from: &Connection, chained: Option<u64>, key: &SecretKey<32>) -> rusqlite::Result<Self> {
        // One state of the database: others go on putting records in.
        let from = from.unchecked_transaction()?;
        let end = count(&from)?;
        let mut outbox = Self { ids: Vec::new(), records: Vec::new(), forged: 0, missing: 0, end };
        let mut statement =
            from.prepare_cached("SELECT id, event_id, head, tail, mac FROM audit_outbox ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let event = Rendered { event_id: row.get(1)?, head: row.get(2)?, tail: row.get(3)? };
            let genuine = match row.get::<_, Option<Vec<u8>>>(4)? {
                Some(found) => seal::same(&found, &mac(id as u64, &event, key)),
                None => chained.is_none(),
            };
            let in_turn = (chained.unwrap_or(0) + 1..=end).contains(&(id as u64));
            outbox.ids.push(id);
            match genuine && in_turn {
                true => outbox.records.push(event),
                false => outbox.forged += 1,
            }
        }
        if let Some(chained) = chained {
            outbox.missing = end.saturating_sub(chained).saturating_sub(outbox.records.len() as u64);
        }
        Ok(outbox)
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.missing == 0
    }

    /// Takes out what was read.
    pub fn clear(&self, from: &Connection) -> rusqlite::Result<()> {
        let mut delete = from.prepare_cached("DELETE FROM audit_outbox WHERE id = ?1")?;
        self.ids.iter().try_for_each(|id| delete.execute([id]).map(drop))
    }
}
