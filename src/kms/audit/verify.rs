//! Proof of the chain, and reading.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde_json::Value;

use super::log::{Head, Log, NO_HASH};
use super::{AuditBreak, AuditError, AuditFilter, AuditReport, canonical};
use crate::crypto::secret::SecretKey;
use crate::kms::seal;

/// The record in `line`, if it is number `seq`, follows the line with hash `prev` and has the right MAC.
pub fn check_line(line: &[u8], seq: u64, prev: &str, key: &SecretKey<32>) -> Result<Value, String> {
    let mut record: Value = serde_json::from_slice(line).map_err(|_| "the line is not JSON".to_owned())?;
    let mut text = String::with_capacity(line.len());
    canonical::write(&record, &mut text);
    if text.as_bytes() != line {
        return Err("the line is not canonical: it was changed".into());
    }
    let found = record["chain"]["seq"].as_u64();
    if found != Some(seq) {
        let found = found.map_or_else(|| "no number".to_owned(), |found| format!("record {found}"));
        return Err(format!("{found} stands where record {seq} belongs"));
    }
    if record["chain"]["prev"] != prev {
        return Err("it does not follow the line before: that one was changed, or lines were moved".into());
    }
    let mac = record["chain"].as_object_mut().and_then(|chain| chain.shift_remove("mac"));
    text.clear();
    canonical::write(&record, &mut text);
    let expected = HEXLOWER.encode(&seal::mac(key, &[text.as_bytes()]));
    if !seal::same(mac.as_ref().and_then(Value::as_str).unwrap_or("").as_bytes(), expected.as_bytes()) {
        return Err("its MAC is wrong: the line was changed".into());
    }
    if let (Some(chain), Some(mac)) = (record["chain"].as_object_mut(), mac) {
        chain.insert("mac".into(), mac);
    }
    Ok(record)
}

/// Walks the whole log; the caller holds the log's lock.
pub fn verify(log: &Log, key: &SecretKey<32>) -> Result<AuditReport, AuditError> {
    let head: Result<Head, AuditError> = log.head(key);
    let files = log.files()?;
    let (mut seq, mut hash) = (0, NO_HASH.to_owned());
    let mut end = (files.last().cloned().unwrap_or_else(|| log.path(1)), 0);
    for file in &files {
        end = (file.clone(), 0);
        let mut broken = None;
        each_line(file, |line| {
            end.1 += 1;
            match check_line(line, seq + 1, &hash, key) {
                Ok(_) => {
                    seq += 1;
                    hash = HEXLOWER.encode(&seal::sha256(line));
                    true
                }
                Err(reason) => {
                    broken = Some(AuditBreak { file: file.clone(), line: end.1, reason });
                    false
                }
            }
        })?;
        if broken.is_some() {
            return Ok(AuditReport { records: seq, files: files.len(), first_break: broken });
        }
    }
    let reason = match head {
        Ok(head) if (head.seq, &head.hash) == (seq, &hash) => None,
        Ok(head) => Some(format!("the log ends with record {seq}, the database knows record {}", head.seq)),
        Err(AuditError::ForgedHead) => Some("the head of the chain in the database has a wrong MAC".to_owned()),
        Err(error) => return Err(error),
    };
    let first_break = reason.map(|reason| AuditBreak { file: end.0, line: end.1, reason });
    Ok(AuditReport { records: seq, files: files.len(), first_break })
}

/// The records that match, in order. What cannot be read is left to `verify`.
pub fn read(files: &[PathBuf], filter: &AuditFilter) -> Result<Vec<Value>, AuditError> {
    let mut found = Vec::new();
    for file in files {
        each_line(file, |line| {
            if let Ok(record) = serde_json::from_slice::<Value>(line)
                && matches(&record, filter)
            {
                found.push(record);
            }
            true
        })?;
    }
    if let Some(last) = filter.last {
        found.drain(..found.len().saturating_sub(last));
    }
    Ok(found)
}

fn each_line(file: &Path, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), AuditError> {
    let io = |source| AuditError::Io { path: file.to_owned(), source };
    let mut reader = BufReader::new(File::open(file).map_err(io)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(io)? == 0 {
            return Ok(());
        }
        if !visit(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Ok(());
        }
    }
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
        && filter.after_seq.is_none_or(|after| record["chain"]["seq"].as_u64().is_some_and(|seq| seq > after))
}
