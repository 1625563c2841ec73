//! The files of the log and the head of the chain.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::event::{Event, Ids, Rendered, ServiceEvent, TimeText};
use super::outbox::Outbox;
use super::{AuditBreak, AuditError, verify};
use crate::crypto::secret::SecretKey;
use crate::env::Entropy;
use crate::kms::lock_file::LockFile;
use crate::kms::store::connect;
use crate::kms::{crash, seal};
use crate::types::Timestamp;

/// A file is closed when it has reached this size, or at the end of the day (UTC).
pub const MAX_FILE: u64 = 64 * 1024 * 1024;
/// So much is written at once, about: as much as a cache holds.
const CHUNK: usize = 128 * 1024;
/// `prev` of the first record.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The end of the chain: last record, and where the next one goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    /// SHA-256 of the last line, hex.
    pub hash: String,
    pub file: u64,
    /// Bytes of the file that belong to the chain.
    pub length: u64,
    /// Days since the epoch when the file was begun.
    pub day: i64,
    /// So many of the records of changes are in the chain; absent: an earlier program wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

fn head_mac(record: &str, key: &SecretKey<32>) -> [u8; 32] {
    seal::mac(key, &[b"kmsfs audit head v1", record.as_bytes()])
}

/// Enters the head of an empty log.
pub fn write_first_head(to: &Connection, key: &SecretKey<32>) -> rusqlite::Result<()> {
    write_head(to, &Head { seq: 0, hash: NO_HASH.to_owned(), file: 1, length: 0, day: 0, records: Some(0) }, key)
}

fn write_head(to: &Connection, head: &Head, key: &SecretKey<32>) -> rusqlite::Result<()> {
    let record = serde_json::to_string(head).expect("plain data serialises");
    let mac = head_mac(&record, key);
    to.prepare_cached(
        "INSERT INTO audit_head(one, record, mac) VALUES (1, ?1, ?2)
         ON CONFLICT(one) DO UPDATE SET record = ?1, mac = ?2",
    )?
    .execute(params![record, &mac[..]])?;
    Ok(())
}

/// The head of the chain as the database has it.
///
/// # Errors
/// [`AuditError::MissingHead`], [`AuditError::ForgedHead`].
pub fn read_head(from: &Connection, key: &SecretKey<32>) -> Result<Head, AuditError> {
    let mut statement = from.prepare_cached("SELECT record, mac FROM audit_head")?;
    let row = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (record, mac): (String, Vec<u8>) = row.ok_or(AuditError::MissingHead)?;
    if !seal::same(&mac, &head_mac(&record, key)) {
        return Err(AuditError::ForgedHead);
    }
    serde_json::from_str(&record).map_err(|_| AuditError::ForgedHead)
}

/// The log with its own connection to the database.
pub struct Log {
    dir: PathBuf,
    connection: Connection,
    max_file: u64,
    #[cfg(test)]
    full: bool,
}

/// A file of the log while records are added to it. A failure leaves it as it was.
struct Appender<'l> {
    /// The directory, if the file may be new in it: also if it is there, its name is not durable when the flush of that failed.
    dir: Option<&'l Path>,
    path: PathBuf,
    file: File,
    /// Its length before.
    at: u64,
}

/// Makes the names durable of the files in the log, and that of the log, which may be as new.
fn flush_names(dir: &Path) -> std::io::Result<()> {
    crash::flush(&File::open(dir)?, false)?;
    dir.parent().map_or(Ok(()), |home| crash::flush(&File::open(home)?, false))
}

impl Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let written = self.file.write_all(first).and_then(|()| {
            // A process that dies in the middle of a write leaves a torn line.
            crash::point();
            self.file.write_all(rest)
        });
        written.or_else(|error| self.undo(error))
    }

    /// Makes everything durable.
    fn end(self) -> Result<(), AuditError> {
        if let Err(error) = crash::flush(&self.file, true) {
            return self.undo(error);
        }
        let Self { dir, path, .. } = self;
        let durable = dir.map_or(Ok(()), flush_names);
        durable.map_err(|source| AuditError::Io { path, source })
    }

    fn undo(&self, error: std::io::Error) -> Result<(), AuditError> {
        let io = |source| AuditError::Io { path: self.path.clone(), source };
        self.file.set_len(self.at).map_err(io)?;
        Err(io(error))
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if absent.
    pub fn open(dir: PathBuf, database: &Path) -> Result<Self, AuditError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| AuditError::Io { path: dir.clone(), source })?;
        let connection = connect(database)?;
        Ok(Self {
            dir,
            connection,
            max_file: MAX_FILE,
            #[cfg(test)]
            full: false,
        })
    }

    #[cfg(test)]
    pub fn set_max_file(&mut self, bytes: u64) {
        self.max_file = bytes;
    }

    /// From now on the disk is full, or not any more.
    #[cfg(test)]
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Excludes other appenders and verifiers, in this process and others.
    pub fn lock(&self) -> Result<LockFile, AuditError> {
        let path = self.dir.join("lock");
        LockFile::acquire(&path).map_err(|source| AuditError::Io { path, source })
    }

    /// The file with this number, from 1.
    pub fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:06}.jsonl"))
    }

    /// The files of the log in order.
    pub fn files(&self) -> Result<Vec<PathBuf>, AuditError> {
        let io = |source| AuditError::Io { path: self.dir.clone(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    pub fn head(&self, key: &SecretKey<32>) -> Result<Head, AuditError> {
        read_head(&self.connection, key)
    }

    /// Appends `events` and then the outbox, durably: uses that succeeded before a change stand before it. Where records in the
    /// outbox were forged or removed, what `alarm` makes of their numbers follows. Shows those of the events that are then in the log to `seen`. Answers
    /// how many they are, also when it failed on the way.
    pub fn append(
        &mut self,
        events: &Batch,
        now: Timestamp,
        (key, entropy): (&SecretKey<32>, &dyn Entropy),
        alarm: impl Fn(u64, u64) -> ServiceEvent,
        seen: impl FnMut(&Event<'_>, &Ids),
    ) -> (usize, Result<(), AuditError>) {
        let mut written = 0;
        let outcome = self.try_append(events, now, (key, entropy), alarm, seen, &mut written);
        (written, outcome)
    }

    fn try_append(
        &mut self,
        events: &Batch,
        now: Timestamp,
        (key, entropy): (&SecretKey<32>, &dyn Entropy),
        alarm: impl Fn(u64, u64) -> ServiceEvent,
        mut seen: impl FnMut(&Event<'_>, &Ids),
        written: &mut usize,
    ) -> Result<(), AuditError> {
        let _lock = self.lock()?;
        let mut head = self.head(key)?;
        let mut outbox = Outbox::read(&self.connection, head.records, key)?;
        if outbox.is_empty() && events.is_empty() {
            return Ok(());
        }
        let already = self.recover(&mut head, key)?;
        let mut changes = std::mem::take(&mut outbox.records);
        changes.retain(|event| !already.contains(&event.event_id));
        let missing = outbox.missing.saturating_sub(already.len() as u64);
        if outbox.forged > 0 || missing > 0 {
            tracing::error!(
                forged = outbox.forged,
                missing,
                "records of changes were forged or removed in the database"
            );
            changes.push(alarm(outbox.forged, missing).render(entropy));
        }

        let day = now.as_secs().div_euclid(86_400);
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let mut ids = vec![0; events.len() * Ids::LEN];
        entropy.fill(&mut ids);
        let (mut changes, mut queued) = (changes.into_iter(), events.events(0).zip(ids.as_chunks().0));
        let (mut rendered, mut time) = (Rendered::default(), TimeText::default());
        let (mut buffer, mut taken) = (String::new(), 0);
        let mut next = |rendered: &mut Rendered| {
            if let Some((event, ids)) = queued.next() {
                event.write(&Ids(*ids), &mut time, rendered);
                return Some(1);
            }
            *rendered = changes.next()?;
            Some(0)
        };
        let mut pending = next(&mut rendered);
        while pending.is_some() {
            if head.length >= self.max_file || (head.day != day && head.length > 0) {
                head = Head { file: head.file + 1, length: 0, ..head };
            }
            if head.length == 0 {
                head.day = day;
            }
            let mut file = self.begin(head.file, head.length)?;
            while pending.is_some() && head.length < self.max_file {
                buffer.clear();
                while let Some(count) = pending
                    && buffer.len() < CHUNK
                    && head.length + (buffer.len() as u64) < self.max_file
                {
                    head.seq += 1;
                    let mac = HEXLOWER.encode(&rendered.mac(head.seq, &head.hash, &mac_key));
                    let start = buffer.len();
                    rendered.line(head.seq, &head.hash, &mac, &mut buffer);
                    head.hash.clear();
                    HEXLOWER.encode_append(&seal::sha256(&buffer.as_bytes()[start..]), &mut head.hash);
                    buffer.push('\n');
                    taken += count;
                    pending = next(&mut rendered);
                }
                file.write(buffer.as_bytes())?;
                head.length += buffer.len() as u64;
            }
            file.end()?;
            let new = events.events(*written).zip(&ids.as_chunks().0[*written..]).take(taken - *written);
            // All at once and not one by one above: what `seen` looks up for them is then waited for together.
            new.for_each(|(event, ids)| seen(&event, &Ids(*ids)));
            *written = taken;
        }
        crash::point();
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_head(&tx, &Head { records: Some(outbox.end), ..head }, key)?;
        outbox.clear(&tx)?;
        tx.commit()?;
        crash::point();
        Ok(())
    }

    /// Begins a new chain in a new file, if the present one is broken: behind the files as they stand, whose digest the first
    /// record has, which `record` makes of the break and that digest. Answers the break.
    pub fn accept(
        &mut self,
        now: Timestamp,
        (key, entropy): (&SecretKey<32>, &dyn Entropy),
        alarm: impl Fn(u64, u64) -> ServiceEvent,
        record: impl Fn(&AuditBreak, &str) -> ServiceEvent,
    ) -> Result<Option<AuditBreak>, AuditError> {
        let lock = self.lock()?;
        let (report, last) = verify::walk(self, key)?;
        let Some(found) = report.first_break else { return Ok(None) };
        let files = self.files()?;
        let event = record(&found, &verify::digest(&files)?);
        let (seq, file, records) = match self.head(key) {
            Ok(head) => (head.seq.max(last), head.file, head.records),
            Err(error) if error.is_broken_head() => (last, 0, None),
            Err(error) => return Err(error),
        };
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let file = files.iter().filter_map(number).max().unwrap_or(0).max(file) + 1;
        write_head(&self.connection, &Head { seq, hash: NO_HASH.to_owned(), file, length: 0, day: 0, records }, key)?;
        drop(lock);
        let mut first = Batch::default();
        first.push(&event.event());
        self.append(&first, now, (key, entropy), alarm, |_, _| {}).1?;
        Ok(Some(found))
    }

    /// The connection to the database.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Begins to write at the end of the chain.
    fn begin(&self, number: u64, at: u64) -> Result<Appender<'_>, AuditError> {
        let path = self.path(number);
        let io = |source| AuditError::Io { path: path.clone(), source };
        #[cfg(test)]
        if self.full {
            return Err(io(std::io::ErrorKind::StorageFull.into()));
        }
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(io)?;
        crash::point();
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        Ok(Appender { dir: (at == 0).then_some(self.dir.as_path()), path, file, at })
    }

    /// Takes over what a crashed process appended without moving the head, and cuts off what is torn of it. Where the
    /// file is not what the head says, a new file is begun, so that the evidence stays. Answers the ids taken over.
    fn recover(&self, head: &mut Head, key: &SecretKey<32>) -> Result<HashSet<String>, AuditError> {
        let mut taken = HashSet::new();
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        loop {
            let path = self.path(head.file);
            let io = |source| AuditError::Io { path: path.clone(), source };
            let mut rest = Vec::new();
            match File::open(&path) {
                Ok(mut file) => {
                    let length = file.metadata().map_err(io)?.len();
                    if length < head.length {
                        tracing::error!(file = %path.display(), "the audit log was cut off; it goes on in a new file");
                        self.next_file(head);
                        continue;
                    }
                    file.seek(SeekFrom::Start(head.length)).map_err(io)?;
                    file.read_to_end(&mut rest).map_err(io)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && head.length == 0 => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    tracing::error!(file = %path.display(), "a file of the audit log is gone; it goes on in a new one");
                    self.next_file(head);
                    continue;
                }
                Err(error) => return Err(io(error)),
            }
            let (from, mut is_sound) = (head.length, true);
            for line in rest.split_inclusive(|byte| *byte == b'\n') {
                // What a power cut leaves of an append ends anywhere, and has zeros where a sector is missing. Nothing of it was
                // relied on, or the head would be behind it.
                let Some(text) = line.strip_suffix(b"\n").filter(|text| !text.contains(&0)) else {
                    let file = OpenOptions::new().write(true).open(&path).map_err(io)?;
                    file.set_len(head.length).and_then(|()| crash::flush(&file, false)).map_err(io)?;
                    tracing::warn!(file = %path.display(), "what a crash left of records at the end of the audit log was removed");
                    break;
                };
                match verify::check_line(text, head.seq + 1, &head.hash, &mac_key) {
                    Ok(()) => {
                        let record: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
                        taken.extend(record["eventID"].as_str().map(str::to_owned));
                        head.seq += 1;
                        head.hash = HEXLOWER.encode(&seal::sha256(text));
                        head.length += line.len() as u64;
                    }
                    Err(reason) => {
                        tracing::error!(file = %path.display(), reason, "the audit log was changed from outside");
                        is_sound = false;
                        break;
                    }
                }
            }
            self.keep(&path, from, &rest[..(head.length - from) as usize])?;
            if !is_sound {
                self.next_file(head);
                return Ok(taken);
            }
            // A crashed process may have gone on in the next file.
            if !self.path(head.file + 1).exists() {
                return Ok(taken);
            }
            *head = Head { file: head.file + 1, length: 0, ..head.clone() };
        }
    }

    /// Makes records durable that were found in a file behind the head, from `at` on. Who wrote them was killed before they were, or
    /// could not undo what failed to be: so they are written again, since a further flush would not do that.
    fn keep(&self, path: &Path, at: u64, records: &[u8]) -> Result<(), AuditError> {
        if records.is_empty() {
            return Ok(());
        }
        let keep = || {
            let file = OpenOptions::new().write(true).open(path)?;
            file.write_all_at(records, at)?;
            crash::flush(&file, true)?;
            flush_names(&self.dir)
        };
        keep().map_err(|source| AuditError::Io { path: path.to_owned(), source })
    }

    fn next_file(&self, head: &mut Head) {
        let mut file = head.file + 1;
        while self.path(file).exists() {
            file += 1;
        }
        *head = Head { file, length: 0, ..head.clone() };
    }
}
