//! Proof of the chain, and reading.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::event::chained_parts;
use super::log::{Head, Log, NO_HASH};
use super::{AuditBreak, AuditError, AuditFilter, AuditPosition, AuditReport};
use crate::crypto::secret::SecretKey;
use crate::kms::seal;

/// The event that says that records of changes were forged or removed before they came into the log.
pub const TAMPERING: &str = "AuditTampering";

/// The event with which a chain begins behind a break that was accepted.
pub const ACCEPTED: &str = "AuditBreakAccepted";

/// SHA-256 over names and contents of files, hex.
pub fn digest(files: &[PathBuf]) -> Result<String, AuditError> {
    let mut all = digest::Context::new(&digest::SHA256);
    for path in files {
        let mut reader = open(path, 0)?;
        let mut of_file = digest::Context::new(&digest::SHA256);
        loop {
            let read = reader.fill_buf().map_err(|source| AuditError::Io { path: path.clone(), source })?;
            if read.is_empty() {
                break;
            }
            of_file.update(read);
            let len = read.len();
            reader.consume(len);
        }
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        all.update(&seal::framed(&[name, of_file.finish().as_ref()]));
    }
    Ok(HEXLOWER.encode(all.finish().as_ref()))
}

/// Where the last break was accepted.
struct Acceptance {
    /// The place of its file among those of the log.
    at: usize,
    /// The number of its record.
    seq: u64,
    details: Value,
}

fn acceptance(files: &[PathBuf], key: &hmac::Key) -> Result<Option<Acceptance>, AuditError> {
    for (at, file) in files.iter().enumerate().rev() {
        let mut line = Vec::new();
        read_line(file, &mut open(file, 0)?, &mut line)?;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let Some(seq) = take_apart(text).map(|line| line.seq) else { continue };
        if check_line(text, seq, NO_HASH, key).is_err() {
            continue;
        }
        let mut record: Value = serde_json::from_slice(text).unwrap_or_default();
        if record["eventName"] == ACCEPTED {
            return Ok(Some(Acceptance { at, seq, details: record["serviceEventDetails"].take() }));
        }
    }
    Ok(None)
}

/// What a line of the log says is wrong with what should stand there.
fn confessed(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok().filter(|text| text.contains(TAMPERING))?;
    let record: Value = serde_json::from_str(text).ok()?;
    (record["eventName"] == TAMPERING).then(|| {
        let details = &record["serviceEventDetails"];
        format!(
            "records of changes that waited in the database were forged ({}) or removed ({}) before this one",
            details["forgedRecords"], details["missingRecords"]
        )
    })
}

/// A line in the parts between which its MAC stands.
struct Chained<'l> {
    head: &'l str,
    mac: &'l str,
    prev: &'l str,
    seq: u64,
    tail: &'l str,
}

/// Takes a line apart. Where a forger put the parts does not matter: the MAC covers them in their places.
fn take_apart(line: &[u8]) -> Option<Chained<'_>> {
    let (head, rest) = std::str::from_utf8(line).ok()?.split_once("\"chain\":{\"mac\":\"")?;
    let (mac, rest) = rest.split_once("\",\"prev\":\"")?;
    let (prev, rest) = rest.split_once("\",\"seq\":")?;
    let (seq, tail) = rest.split_once("},")?;
    Some(Chained { head, mac, prev, seq: seq.parse().ok()?, tail })
}

/// Whether `line` is number `seq`, follows the line with hash `prev` and has the right MAC.
pub fn check_line(line: &[u8], seq: u64, prev: &str, key: &hmac::Key) -> Result<(), String> {
    let found = take_apart(line).ok_or("the line is not a record of this log: it was changed")?;
    if found.seq != seq {
        return Err(format!("record {} stands where record {seq} belongs", found.seq));
    }
    if found.prev != prev {
        return Err("it does not follow the line before: that one was changed, or lines were moved".into());
    }
    let mut mac = hmac::Context::with_key(key);
    let seq = seq.to_string();
    chained_parts(found.head, prev, &seq, found.tail).iter().for_each(|part| mac.update(part.as_bytes()));
    let expected = HEXLOWER.encode(mac.sign().as_ref());
    match seal::same(found.mac.as_bytes(), expected.as_bytes()) {
        true => Ok(()),
        false => Err("its MAC is wrong: the line was changed".into()),
    }
}

/// Walks the whole log; the caller holds the log's lock. Records behind the head are what a process wrote that could not
/// move the head afterwards: the next write takes them in, if they are genuine.
pub fn verify(log: &Log, key: &SecretKey<32>) -> Result<AuditReport, AuditError> {
    walk(log, key).map(|(report, _)| report)
}

/// As [`verify`]; also answers the number of the last record that was proven.
pub fn walk(log: &Log, key: &SecretKey<32>) -> Result<(AuditReport, u64), AuditError> {
    let head: Result<Head, AuditError> = log.head(key);
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let files = log.files()?;
    let start = acceptance(&files, &mac_key)?;
    let (first, before) = start.as_ref().map_or((0, 0), |start| (start.at, start.seq - 1));
    let accepted = start.as_ref().map(|start| start.details["reason"].as_str().unwrap_or_default().to_owned());
    let report = |seq: u64, first_break| {
        let report = AuditReport { records: seq - before, files: files.len(), first_break, accepted: accepted.clone() };
        (report, seq)
    };
    if let Some(start) = &start
        && start.details["digest"] != digest(&files[..first])?.as_str()
    {
        let reason = "the files before it are not those with which a break was accepted here".to_owned();
        return Ok(report(before, Some(AuditBreak { file: files[first].clone(), line: 1, reason })));
    }
    let (mut seq, mut hash) = (before, NO_HASH.to_owned());
    let is_head = |seq: u64, hash: &str| head.as_ref().is_ok_and(|head| head.seq == seq && head.hash == hash);
    let mut reached = is_head(seq, &hash);
    let mut end = (files.last().cloned().unwrap_or_else(|| log.path(1)), 0);
    for file in &files[first..] {
        end = (file.clone(), 0);
        let mut broken = None;
        let mut reader = open(file, 0)?;
        let mut line = Vec::new();
        while read_line(file, &mut reader, &mut line)? > 0 {
            end.1 += 1;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let sound = check_line(text, seq + 1, &hash, &mac_key).and_then(|()| confessed(text).map_or(Ok(()), Err));
            if let Err(reason) = sound {
                let reason = lost_beginning(text, seq, &mac_key).unwrap_or(reason);
                broken = Some(AuditBreak { file: file.clone(), line: end.1, reason });
                break;
            }
            seq += 1;
            hash.clear();
            HEXLOWER.encode_append(&seal::sha256(text), &mut hash);
            reached |= is_head(seq, &hash);
        }
        if broken.is_some() {
            return Ok(report(seq, broken));
        }
    }
    let reason = match head {
        Ok(_) if reached => None,
        Ok(head) if head.seq <= seq => Some(format!("the database knows another record {}", head.seq)),
        Ok(head) => Some(format!("the log ends with record {seq}, the database knows record {}", head.seq)),
        Err(AuditError::ForgedHead) => Some("the head of the chain in the database has a wrong MAC".to_owned()),
        Err(AuditError::MissingHead) => Some("the head of the chain in the database is gone".to_owned()),
        Err(error) => return Err(error),
    };
    let first_break = reason.map(|reason| AuditBreak { file: end.0, line: end.1, reason });
    Ok(report(seq, first_break))
}

/// What is wrong with an authentic line that stands first and is not the first record.
fn lost_beginning(line: &[u8], seq: u64, key: &hmac::Key) -> Option<String> {
    let found = take_apart(line).filter(|found| seq == 0 && found.seq > 1)?;
    check_line(line, found.seq, found.prev, key).ok()?;
    Some(format!(
        "the records 1 to {} are missing: their files are gone, as in a home that was restored without its directory audit",
        found.seq - 1
    ))
}

/// Visits the records that match behind `position`, in order, which moves behind the last whole line. What cannot be
/// read is left to `verify`.
pub fn visit(
    files: &[PathBuf],
    filter: &AuditFilter,
    position: &mut AuditPosition,
    mut visit: impl FnMut(Value) -> ControlFlow<()>,
) -> Result<(), AuditError> {
    // The lines are canonical, so that what must be in a matching one can be looked for before it is parsed.
    let mut needles: Vec<String> = Vec::new();
    needles.extend(filter.event.as_ref().map(|event| format!("\"eventName\":\"{event}\"")));
    needles.extend(filter.errors_only.then(|| "\"errorCode\":\"".to_owned()));
    let first = position.file.clone();
    for file in files.iter().filter(|file| first.as_ref().is_none_or(|first| *file >= first)) {
        if position.file.as_ref() != Some(file) {
            *position = AuditPosition { file: Some(file.clone()), offset: 0 };
        }
        let mut reader = open(file, position.offset)?;
        let mut line = Vec::new();
        while read_line(file, &mut reader, &mut line)? > 0 && line.ends_with(b"\n") {
            position.offset += line.len() as u64;
            let Ok(text) = std::str::from_utf8(&line) else { continue };
            if needles.iter().all(|needle| text.contains(needle.as_str()))
                && let Ok(record) = serde_json::from_str::<Value>(text)
                && matches(&record, filter)
                && visit(record).is_break()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn open(file: &Path, offset: u64) -> Result<BufReader<File>, AuditError> {
    let open = File::open(file).and_then(|mut file| file.seek(SeekFrom::Start(offset)).map(|_| file));
    let file = open.map_err(|source| AuditError::Io { path: file.to_owned(), source })?;
    Ok(BufReader::with_capacity(256 * 1024, file))
}

/// Reads the next line, or what there is of it; 0 at the end.
fn read_line(file: &Path, reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<usize, AuditError> {
    line.clear();
    reader.read_until(b'\n', line).map_err(|source| AuditError::Io { path: file.to_owned(), source })
}

fn matches(record: &Value, filter: &AuditFilter) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = |wanted: &String| {
        let of_parameters = ["keyId", "destinationKeyId", "sourceKeyId", "targetKeyId", "aliasName"];
        of_parameters.iter().any(|name| text(&record["requestParameters"][name]).contains(wanted))
            || record["resources"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| text(&one["ARN"]).contains(wanted)))
    };
    let time = text(&record["eventTime"]);
    filter.key.as_ref().is_none_or(key)
        && filter.principal.as_ref().is_none_or(|wanted| text(&record["userIdentity"]["arn"]).contains(wanted))
        && filter.event.as_ref().is_none_or(|wanted| record["eventName"] == **wanted)
        // RFC 3339 in UTC with seconds: the order of the texts is the order of the times.
        && filter.since.is_none_or(|since| time >= since.to_string())
        && filter.until.is_none_or(|until| time <= until.to_string())
        && (!filter.errors_only || !record["errorCode"].is_null())
}
