//! The clock record: what was observed of the wall clock, with a MAC of its own.

use std::path::PathBuf;

use rusqlite::Connection;

use super::StoreError;
use super::records::ClockRecord;
use crate::kms::custody::DomainKeys;
use crate::kms::seal;

/// Why the clock record could not be read.
pub enum ClockFault {
    Sqlite(rusqlite::Error),
    Forged,
}

impl ClockFault {
    pub fn at(self, path: PathBuf) -> StoreError {
        match self {
            Self::Sqlite(error) => error.into(),
            Self::Forged => StoreError::Damaged { path, what: "its clock record has a wrong MAC".into() },
        }
    }
}

fn mac(record: &str, domain: &DomainKeys) -> [u8; 32] {
    seal::mac(&domain.row, &[b"kmsfs clock v1", record.as_bytes()])
}

pub fn read(from: &Connection, domain: &DomainKeys) -> Result<ClockRecord, ClockFault> {
    let row = from.query_row("SELECT record, mac FROM clock", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (record, found): (String, Vec<u8>) = row.map_err(ClockFault::Sqlite)?;
    if !seal::same(&found, &mac(&record, domain)) {
        return Err(ClockFault::Forged);
    }
    serde_json::from_str(&record).map_err(|_| ClockFault::Forged)
}

pub fn write(to: &Connection, clock: &ClockRecord, domain: &DomainKeys) -> rusqlite::Result<()> {
    let record = serde_json::to_string(clock).expect("plain data serialises");
    let mac = mac(&record, domain);
    to.prepare_cached(
        "INSERT INTO clock(one, record, mac) VALUES (1, ?1, ?2) ON CONFLICT(one) DO UPDATE SET record = ?1, mac = ?2",
    )?
    .execute(rusqlite::params![record, &mac[..]])?;
    Ok(())
}
