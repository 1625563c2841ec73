//! Rows: their MACs, their sealed columns, and the digest over all of them.

use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use crate::env::Entropy;
use crate::kms::custody::DomainKeys;
use crate::kms::seal;

/// The tables whose rows are under the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Keys,
    Materials,
    WrappingKeys,
    Aliases,
    Volumes,
}

impl Table {
    /// Parents before children.
    pub const ALL: [Self; 5] = [Self::Keys, Self::Materials, Self::WrappingKeys, Self::Aliases, Self::Volumes];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Materials => "materials",
            Self::WrappingKeys => "wrapping_keys",
            Self::Aliases => "aliases",
            Self::Volumes => "volumes",
        }
    }
}

/// A row as it stands in the database.
#[derive(Clone)]
pub struct Row {
    pub id: String,
    pub parent: Option<String>,
    pub revision: u64,
    pub record: String,
    pub sealed: Option<Vec<u8>>,
}

const FORMAT: &[u8] = b"kmsfs row v1";

impl Row {
    fn mac(&self, table: Table, keys: &DomainKeys) -> [u8; 32] {
        let parent = self.parent.as_deref().unwrap_or("");
        let sealed = self.sealed.as_deref().unwrap_or(&[]);
        let fields = [
            FORMAT,
            table.name().as_bytes(),
            self.id.as_bytes(),
            parent.as_bytes(),
            &self.revision.to_be_bytes(),
            self.record.as_bytes(),
            sealed,
        ];
        seal::mac(&keys.row, &[&seal::framed(&fields)])
    }

    /// Opens the sealed column.
    pub fn unseal(&self, table: Table, keys: &DomainKeys) -> Option<Zeroizing<Vec<u8>>> {
        seal::open(&keys.seal, &column_aad(table.name(), &self.id, keys.epoch), self.sealed.as_deref()?)
    }

    /// Seals the secret column.
    pub fn seal(&mut self, table: Table, secret: &[u8], keys: &DomainKeys, entropy: &dyn Entropy) {
        self.sealed = Some(seal::seal(&keys.seal, &column_aad(table.name(), &self.id, keys.epoch), secret, entropy));
    }

    /// Inserts or replaces the row.
    pub fn write(&self, table: Table, keys: &DomainKeys, to: &Connection) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO {}(id, parent, revision, record, sealed, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT(id) DO UPDATE SET parent = ?2, revision = ?3, record = ?4, sealed = ?5, mac = ?6",
            table.name()
        );
        let mac = self.mac(table, keys);
        to.prepare_cached(&sql)?.execute(params![
            self.id,
            self.parent,
            self.revision as i64,
            self.record,
            self.sealed,
            &mac[..]
        ])?;
        Ok(())
    }
}

/// AAD of a sealed column: table, row, column, epoch, format version (KMS.md section 19).
pub fn column_aad(table: &str, id: &str, epoch: u64) -> Vec<u8> {
    seal::framed(&[b"kmsfs column v1", table.as_bytes(), id.as_bytes(), b"sealed", &epoch.to_be_bytes()])
}

/// The rows of `table` whose revision is above `above`; `Err` names the first whose MAC is wrong.
pub fn read(
    table: Table,
    above: Option<u64>,
    keys: &DomainKeys,
    from: &Connection,
) -> rusqlite::Result<Result<Vec<Row>, String>> {
    let sql = format!(
        "SELECT id, parent, revision, record, sealed, mac FROM {} WHERE revision > ?1 ORDER BY id",
        table.name()
    );
    let mut statement = from.prepare_cached(&sql)?;
    let mut found = Vec::new();
    let mut rows = statement.query([above.map_or(-1, |above| above as i64)])?;
    while let Some(raw) = rows.next()? {
        let row = Row {
            id: raw.get(0)?,
            parent: raw.get(1)?,
            revision: raw.get::<_, i64>(2)? as u64,
            record: raw.get(3)?,
            sealed: raw.get(4)?,
        };
        let mac: Vec<u8> = raw.get(5)?;
        if !seal::same(&mac, &row.mac(table, keys)) {
            return Ok(Err(format!("row '{}' of table {} has a wrong MAC", row.id, table.name())));
        }
        found.push(row);
    }
    Ok(Ok(found))
}

/// Ids and revisions of all rows of `table`.
pub fn revisions(table: Table, from: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut statement = from.prepare_cached(&format!("SELECT id, revision FROM {}", table.name()))?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?.collect()
}

/// Deletes a row.
pub fn delete(table: Table, id: &str, from: &Connection) -> rusqlite::Result<()> {
    from.prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", table.name()))?.execute([id])?;
    Ok(())
}

/// A number of the table `meta`.
pub fn meta(name: &str, from: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut statement = from.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    statement.query_row([name], |row| row.get::<_, i64>(0)).optional().map(|value| value.map(|value| value as u64))
}

/// Sets a number of the table `meta`.
pub fn set_meta(name: &str, value: u64, to: &Connection) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT INTO meta(name, value) VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET value = ?2")?
        .execute(params![name, value as i64])?;
    Ok(())
}

/// A keyed sum over rows, so that a change costs as much as it has rows: the sum of one PRF value per row, modulo
/// 2^256. It never leaves memory; only its MAC does (`finish`), so that sums of different times cannot be combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum([u64; 4]);

impl Sum {
    fn element(table: Table, id: &str, revision: u64, keys: &DomainKeys) -> [u64; 4] {
        let fields = [&b"row"[..], table.name().as_bytes(), id.as_bytes(), &revision.to_be_bytes()];
        let value = seal::mac(&keys.digest, &[&seal::framed(&fields)]);
        std::array::from_fn(|i| u64::from_le_bytes(value[8 * i..8 * i + 8].try_into().expect("eight bytes")))
    }

    pub fn add(&mut self, table: Table, id: &str, revision: u64, keys: &DomainKeys) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(table, id, revision, keys)) {
            (*limb, carry) = limb.carrying_add(other, carry);
        }
    }

    pub fn remove(&mut self, table: Table, id: &str, revision: u64, keys: &DomainKeys) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(table, id, revision, keys)) {
            (*limb, borrow) = limb.borrowing_sub(other, borrow);
        }
    }

    /// The digest of a state.
    pub fn finish(&self, revision: u64, keys: &DomainKeys) -> [u8; 32] {
        let limbs: Vec<u8> = self.0.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        seal::mac(&keys.digest, &[b"state", &keys.epoch.to_be_bytes(), &revision.to_be_bytes(), &limbs])
    }
}
