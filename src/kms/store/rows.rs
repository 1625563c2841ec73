//! Rows: their MACs, their sealed columns, and the digest over all of them.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::shelves::Shelves;
use crate::env::Entropy;
use crate::kms::custody::DomainKeys;
use crate::kms::seal::{self, MacKey, Opener};

/// The tables whose rows are under the digest, parents before children.
///
/// All have the same columns: id, parent, revision, record (JSON), sealed (a secret), mac. To add one:
/// 1. here: a variant at the end, and its name;
/// 2. `schema::STEPS`: the step that creates it, at the end; homes made before take that step when they are opened;
/// 3. `records` (or a file of its own): the record, a struct that serde turns into JSON, with `impl Record`; a secret is
///    a `#[serde(skip)] SecretBytes` that `secret` and `set_secret` hand over, and is sealed by the domain key;
/// 4. `Snapshot`: a field `Rows<...>`, and an arm in `Snapshot::apply`.
///
/// Operations then read the field of the snapshot, and edit by `Change::put` and `Change::delete`. Rows that belong
/// together are listed fast when their ids begin alike: `{key row id}/{own id}` and [`below`](super::below). An index
/// over something else is kept by `Record::index`. A JSON member that is added later carries `#[serde(default)]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Keys,
    Materials,
    Aliases,
    Volumes,
    WrappingKeys,
    Grants,
    Principals,
    AccessKeys,
    KeyStores,
    Clusters,
}

impl Table {
    /// Parents before children.
    pub const ALL: [Self; 10] = [
        Self::Keys,
        Self::Materials,
        Self::Aliases,
        Self::Volumes,
        Self::WrappingKeys,
        Self::Grants,
        Self::Principals,
        Self::AccessKeys,
        Self::KeyStores,
        Self::Clusters,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Materials => "materials",
            Self::WrappingKeys => "wrapping_keys",
            Self::Aliases => "aliases",
            Self::Volumes => "volumes",
            Self::Grants => "grants",
            Self::Principals => "principals",
            Self::AccessKeys => "access_keys",
            Self::KeyStores => "key_stores",
            Self::Clusters => "clusters",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// A row as it stands in the database, from where it is borrowed when it is read.
pub struct Row<'a> {
    pub id: Cow<'a, str>,
    pub parent: Option<Cow<'a, str>>,
    pub revision: u64,
    pub record: Cow<'a, str>,
    pub sealed: Option<Cow<'a, [u8]>>,
}

const FORMAT: &[u8] = b"kmsfs row v1";

/// What authenticates the rows of one epoch and opens their secrets, ready for many of them.
pub struct Prover {
    row: MacKey,
    digest: MacKey,
    opener: Opener,
    epoch: u64,
}

impl Prover {
    pub fn new(keys: &DomainKeys) -> Self {
        let (row, digest) = (MacKey::new(&keys.row), MacKey::new(&keys.digest));
        Self { row, digest, opener: Opener::new(&keys.seal), epoch: keys.epoch }
    }
}

impl Row<'_> {
    pub fn into_owned(self) -> Row<'static> {
        fn text(text: Cow<'_, str>) -> Cow<'static, str> {
            text.into_owned().into()
        }
        let Row { id, parent, revision, record, sealed } = self;
        let sealed = sealed.map(|sealed| sealed.into_owned().into());
        Row { id: text(id), parent: parent.map(text), revision, record: text(record), sealed }
    }

    fn mac(&self, table: Table, prover: &Prover) -> [u8; 32] {
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
        prover.row.framed(&fields)
    }

    /// Opens the sealed column.
    pub fn unseal(&self, table: Table, prover: &Prover) -> Option<Zeroizing<Vec<u8>>> {
        prover.opener.open(&column_aad(table.name(), &self.id, prover.epoch), self.sealed.as_deref()?)
    }

    /// Inserts or replaces the row.
    pub fn write(&self, table: Table, prover: &Prover, to: &Connection) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO {}(id, parent, revision, record, sealed, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT(id) DO UPDATE SET parent = ?2, revision = ?3, record = ?4, sealed = ?5, mac = ?6",
            table.name()
        );
        let mac = self.mac(table, prover);
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

/// Seals the secret column of the row `id`.
pub fn seal(table: Table, id: &str, secret: &[u8], keys: &DomainKeys, entropy: &dyn Entropy) -> Vec<u8> {
    seal::seal(&keys.seal, &column_aad(table.name(), id, keys.epoch), secret, entropy)
}

/// AAD of a sealed column: table, row, column, epoch, format version (KMS.md section 19).
pub fn column_aad(table: &str, id: &str, epoch: u64) -> Vec<u8> {
    seal::framed(&[b"kmsfs column v1", table.as_bytes(), id.as_bytes(), b"sealed", &epoch.to_be_bytes()])
}

/// Visits the rows of `table` whose revision is above `above`, or all. `Err` says what is wrong with the database: a
/// MAC, or what `visit` found.
pub fn visit(
    table: Table,
    above: Option<u64>,
    prover: &Prover,
    from: &Connection,
    mut visit: impl FnMut(Row<'_>) -> Result<(), String>,
) -> rusqlite::Result<Result<(), String>> {
    let name = table.name();
    let sql = match above {
        Some(_) => format!("SELECT id, parent, revision, record, sealed, mac FROM {name} WHERE revision > ?1"),
        None => format!("SELECT id, parent, revision, record, sealed, mac FROM {name} WHERE ?1 < 0"),
    };
    let mut statement = from.prepare_cached(&sql)?;
    let mut rows = statement.query([above.map_or(-1, |above| above as i64)])?;
    while let Some(raw) = rows.next()? {
        let row = Row {
            id: raw.get_ref(0)?.as_str()?.into(),
            parent: raw.get_ref(1)?.as_str_or_null()?.map(Cow::from),
            revision: raw.get::<_, i64>(2)? as u64,
            record: raw.get_ref(3)?.as_str()?.into(),
            sealed: raw.get_ref(4)?.as_blob_or_null()?.map(Cow::from),
        };
        if !seal::same(raw.get_ref(5)?.as_blob()?, &row.mac(table, prover)) {
            return Ok(Err(format!("row '{}' of table {name} has a wrong MAC", row.id)));
        }
        if let Err(what) = visit(row) {
            return Ok(Err(what));
        }
    }
    Ok(Ok(()))
}

/// Deletions are remembered for this many revisions: a process that is further behind reads everything.
const REMEMBERED: u64 = 4096;

/// Deletes a row, and notes it for other processes. The note needs no MAC: a wrong one leads to a wrong digest, and
/// then to reading everything.
pub fn delete(table: Table, id: &str, revision: u64, from: &Connection) -> rusqlite::Result<()> {
    from.prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", table.name()))?.execute([id])?;
    from.prepare_cached("INSERT INTO deletions(revision, place, id) VALUES (?1, ?2, ?3)")?.execute(params![
        revision as i64,
        table.name(),
        id
    ])?;
    let forgotten = revision.saturating_sub(REMEMBERED);
    if forgotten > meta(FORGOTTEN, from)?.unwrap_or(0) {
        from.prepare_cached("DELETE FROM deletions WHERE revision <= ?1")?.execute([forgotten as i64])?;
        set_meta(FORGOTTEN, forgotten, from)?;
    }
    Ok(())
}

/// How many records of changes have been put into the outbox so far. The digest of the state covers it, so that one that is
/// taken out unread is missed.
pub const RECORDS: &str = "records";

/// Deletions up to this revision are not noted any more.
pub const FORGOTTEN: &str = "deletions_forgotten";

/// Rows deleted since `revision`, children first; `None` if that is not known any more. Some may have been made anew.
pub fn deleted_since(revision: u64, from: &Connection) -> rusqlite::Result<Option<Vec<(Table, String)>>> {
    if meta(FORGOTTEN, from)?.is_none_or(|forgotten| revision < forgotten) {
        return Ok(None);
    }
    let mut statement = from.prepare_cached("SELECT place, id FROM deletions WHERE revision > ?1")?;
    let rows = statement.query_map([revision as i64], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut deleted = Vec::new();
    for row in rows {
        let (name, id) = row?;
        let Some(table) = Table::named(&name) else { return Ok(None) };
        deleted.push((table, id));
    }
    deleted.sort_by(|a, b| b.cmp(a));
    Ok(Some(deleted))
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
#[derive(Debug, Clone, Copy, Default)]
struct Sum([u64; 4]);

impl Sum {
    fn element(table: Table, id: &str, revision: u64, prover: &Prover) -> [u64; 4] {
        let fields = [&b"row"[..], table.name().as_bytes(), id.as_bytes(), &revision.to_be_bytes()];
        let value = prover.digest.framed(&fields);
        std::array::from_fn(|i| u64::from_le_bytes(value[8 * i..8 * i + 8].try_into().expect("eight bytes")))
    }

    fn add(&mut self, table: Table, id: &str, revision: u64, prover: &Prover) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(table, id, revision, prover)) {
            (*limb, carry) = limb.carrying_add(other, carry);
        }
    }

    fn remove(&mut self, table: Table, id: &str, revision: u64, prover: &Prover) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(Self::element(table, id, revision, prover)) {
            (*limb, borrow) = limb.borrowing_sub(other, borrow);
        }
    }

    fn finish(&self, revision: u64, records: Option<u64>, keys: &DomainKeys) -> [u8; 32] {
        let limbs: Vec<u8> = self.0.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        // Earlier programs did not count records.
        let records = records.map(u64::to_be_bytes);
        let records = records.as_ref().map_or(&[][..], |records| &records[..]);
        seal::mac(&keys.digest, &[b"state", &keys.epoch.to_be_bytes(), &revision.to_be_bytes(), &limbs, records])
    }
}

/// The revisions of all rows, and their sum. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Each with a second hash of table and id, which stand in no order and are never told again: 128 bits of keyed hashes
    /// are the same for two rows as rarely as a key is guessed, and the digest would notice.
    revisions: Shelves<(u64, u64)>,
    second: RandomState,
    sum: Sum,
    /// How many records of changes there have been, of those that the table `meta` counts.
    pub records: Option<u64>,
}

impl Ledger {
    /// Enters a row that was inserted or replaced; answers whether it was there before.
    pub fn put(&mut self, table: Table, id: &str, revision: u64, prover: &Prover) -> bool {
        let [hash, second] = self.hashes(table, id);
        let old = self.revisions.put(hash, (second, revision), |(own, _)| *own == second);
        if let Some((_, old)) = old {
            self.sum.remove(table, id, old, prover);
        }
        self.sum.add(table, id, revision, prover);
        old.is_some()
    }

    fn hashes(&self, table: Table, id: &str) -> [u64; 2] {
        let table = [table as u8];
        [self.revisions.hash(&[&table, id.as_bytes()]), self.second.hash_one((table, id))]
    }

    /// Removes a row; false if it is not there.
    pub fn remove(&mut self, table: Table, id: &str, prover: &Prover) -> bool {
        let [hash, second] = self.hashes(table, id);
        let Some((_, old)) = self.revisions.remove(hash, |(own, _)| *own == second) else { return false };
        self.sum.remove(table, id, old, prover);
        true
    }

    /// The digest of a state.
    pub fn digest(&self, revision: u64, keys: &DomainKeys) -> [u8; 32] {
        self.sum.finish(revision, self.records, keys)
    }
}
