//! When a key was last used (`GetKeyLastUsage`). Uses are noted where the audit log is written, off the caller's way, and
//! kept in the database every few seconds and at the end: an orderly end loses none, a crash those of the last seconds,
//! which the audit log has.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::crypto::secret::SecretKey;
use crate::kms::audit::{AuditError, Event, Ids};
use crate::kms::model::{Caller, nanos};
use crate::kms::seal;
use crate::kms::store::usage_since;
use crate::types::{KeyArn, Timestamp};

/// Whether an operation counts as a use of its key, as `GetKeyLastUsage` has it; `ReEncrypt` does for both keys.
pub fn is_use(operation: &str) -> bool {
    matches!(
        operation,
        "Decapsulate"
            | "Decrypt"
            | "DeriveSharedSecret"
            | "Encapsulate"
            | "Encrypt"
            | "GenerateDataKey"
            | "GenerateDataKeyPair"
            | "GenerateDataKeyPairWithoutPlaintext"
            | "GenerateDataKeyWithoutPlaintext"
            | "GenerateMac"
            | "ReEncrypt"
            | "Sign"
            | "Verify"
            | "VerifyMac"
    )
}

/// The last successful cryptographic use of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUsage {
    /// The operation.
    pub operation: String,
    /// When.
    #[serde(with = "nanos")]
    pub time: Timestamp,
    /// `eventID` of its audit record.
    pub event_id: String,
    /// `requestID` of its audit record.
    pub request_id: String,
    /// ARN of the principal.
    pub principal: String,
}

/// A use as it is noted, which must cost little: what it becomes is made when it is asked for.
struct Use {
    operation: &'static str,
    time: Timestamp,
    ids: Ids,
    caller: Caller,
}

impl Use {
    fn usage(&self) -> LastUsage {
        LastUsage {
            operation: self.operation.to_owned(),
            time: self.time,
            event_id: self.ids.event(),
            request_id: self.ids.request(&self.caller),
            principal: self.caller.principal().arn().to_owned(),
        }
    }
}

/// Uses that are not in the database yet, the last of each key.
#[derive(Default)]
pub struct Usages {
    last: HashMap<KeyArn, Use, BuildHasherDefault<TailHasher>>,
    saved: Option<Timestamp>,
}

/// Hashes key ARNs by their last bytes, which are random: the end of a key id that the key manager made. The same key in
/// several Regions has the same.
#[derive(Default)]
struct TailHasher(u64);

impl Hasher for TailHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(tail) = bytes.last_chunk::<16>() {
            let [high, low] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| tail[at + i])));
            // Of each hex digit four bits are random: side by side, and then spread over all.
            let product = u128::from(low ^ high.rotate_left(4)) * 0x9e37_79b9_7f4a_7c15;
            self.0 = (product as u64) ^ (product >> 64) as u64;
        }
    }

    fn write_u8(&mut self, _end_of_text: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

fn mac(key: &SecretKey<32>, arn: &KeyArn, record: &str) -> [u8; 32] {
    seal::mac(key, &[&seal::framed(&[b"kmsfs last usage v1", arn.as_str().as_bytes(), record.as_bytes()])])
}

impl Usages {
    /// Notes what an event tells of the use of keys.
    pub fn note(&mut self, event: &Event<'_>, ids: &Ids) {
        let Some(caller) = event.caller().filter(|_| event.error.is_none() && is_use(event.name)) else {
            return;
        };
        for arn in event.resources {
            let new = || Use { operation: event.name, time: event.time, ids: *ids, caller: caller.clone() };
            match self.last.get_mut(arn) {
                Some(known) if known.time > event.time => {}
                Some(known) => *known = new(),
                None => drop(self.last.insert(arn.clone(), new())),
            }
        }
    }

    /// Whether it is time to save: after `period`, and so much more for each key that no hundredth of the time goes into
    /// it.
    pub fn is_due(&self, now: Timestamp, period: i64) -> bool {
        let period = period + self.last.len() as i64 * 1_000_000;
        let waited = self.saved.is_none_or(|saved| now.as_nanos().abs_diff(saved.as_nanos()) >= period as u64);
        waited && !self.last.is_empty()
    }

    /// Writes what is not written yet; a later use that another process wrote stays.
    pub fn save(&mut self, to: &mut Connection, key: &SecretKey<32>, now: Timestamp) -> Result<(), AuditError> {
        if self.last.is_empty() {
            return Ok(());
        }
        let tx = to.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (arn, noted) in &self.last {
            let usage = noted.usage();
            let record = serde_json::to_string(&usage).expect("plain data serialises");
            tx.prepare_cached(
                "INSERT INTO usage(id, at, record, mac) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(id) DO UPDATE SET at = ?2, record = ?3, mac = ?4 WHERE at <= ?2",
            )?
            .execute(params![arn.as_str(), usage.time.as_nanos(), record, &mac(key, arn, &record)[..]])?;
        }
        tx.commit()?;
        self.last.clear();
        self.saved = Some(now);
        Ok(())
    }

    /// The last use of a key, and since when uses are noted.
    pub fn last(
        &self,
        arn: &KeyArn,
        from: &Connection,
        key: &SecretKey<32>,
    ) -> Result<(Option<LastUsage>, Timestamp), AuditError> {
        let mut statement = from.prepare_cached("SELECT record, mac FROM usage WHERE id = ?1")?;
        let row = statement.query_row([arn.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let kept = match row {
            None => None,
            Some((record, found)) => {
                let (record, found): (String, Vec<u8>) = (record, found);
                let genuine = seal::same(&found, &mac(key, arn, &record));
                let usage = serde_json::from_str(&record).ok().filter(|_| genuine);
                Some(usage.ok_or_else(|| AuditError::ForgedUsage(arn.clone()))?)
            }
        };
        let latest =
            kept.into_iter().chain(self.last.get(arn).map(Use::usage)).max_by_key(|usage: &LastUsage| usage.time);
        Ok((latest, usage_since(from)?))
    }
}
