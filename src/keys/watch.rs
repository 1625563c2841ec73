//! Which of the KMS keys in use may still be used: for mounts that let go of a key as soon as it may not (`key-state=strict`).

use std::collections::{HashMap, HashSet};

use super::{KeyError, KeyService};
use crate::format::Outcome;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock, lock, read, write};
use crate::types::{EncryptionContext, KeyArn};

/// The keys that opened something since the mount.
#[derive(Default)]
pub(super) struct Watch {
    seen: Mutex<HashMap<KeyArn, Seen>>,
    refused: RwLock<HashSet<KeyArn>>,
    /// Whether `refused` holds anything.
    any: AtomicBool,
}

/// One of them.
#[derive(Clone)]
struct Seen {
    /// A ciphertext of the key, and what it is bound to: whether it can be decrypted is the question.
    blob: Vec<u8>,
    context: EncryptionContext,
    /// The revision of the key manager at which it was last answered.
    judged_at: Option<u64>,
}

/// What changed from one look to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Keys that may not be used any more, with why.
    pub refused: Vec<(KeyArn, KeyError)>,
    /// Keys that may be used again.
    pub allowed: Vec<KeyArn>,
}

impl Watch {
    /// Notes a key that has just opened `blob`, or made it.
    pub(super) fn note(&self, key: &KeyArn, blob: &[u8], context: &EncryptionContext) {
        let mut seen = lock(&self.seen);
        if !seen.contains_key(key) {
            seen.insert(key.clone(), Seen { blob: blob.to_vec(), context: context.clone(), judged_at: None });
        }
    }

    /// Whether `key` was refused at the last look; of an unknown key, whether any was.
    pub(super) fn refuses(&self, key: Option<&KeyArn>) -> bool {
        self.any.load(Ordering::Acquire) && key.is_none_or(|key| read(&self.refused).contains(key))
    }

    /// Asks the key manager about each key. One that does not answer changes nothing: silence is no decision.
    pub(super) fn look(&self, service: &dyn KeyService) -> Verdicts {
        // Before the questions: what changes meanwhile is asked again.
        let revision = service.revision();
        let seen = lock(&self.seen).clone();
        let mut verdicts = Verdicts::default();
        for (key, known) in seen {
            let was_refused = read(&self.refused).contains(&key);
            let verdict = match service.check(&key) {
                Ok(()) if revision.is_some() && known.judged_at == revision => continue,
                // Its state allows it; whether policies and grants do, only the call itself tells.
                Ok(()) => service.decrypt(&key, &known.blob, &known.context).map(drop),
                refused => refused,
            };
            let by_state = verdict.is_err() && service.check(&key).is_err();
            match verdict {
                Err(error) if error.outcome() == Outcome::KeyServiceTimeout => {
                    tracing::debug!("whether the KMS key {key} may still be used is unknown: {error}");
                    continue;
                }
                Err(error) if !was_refused => verdicts.refused.push((key.clone(), error)),
                Ok(()) if was_refused => verdicts.allowed.push(key.clone()),
                Ok(()) | Err(_) => {}
            }
            if let Some(known) = lock(&self.seen).get_mut(&key) {
                // A state can change back without the other answer being known.
                known.judged_at = if by_state { None } else { revision };
            }
        }
        let mut refused = write(&self.refused);
        refused.extend(verdicts.refused.iter().map(|(key, _)| key.clone()));
        refused.retain(|key| !verdicts.allowed.contains(key));
        self.any.store(!refused.is_empty(), Ordering::Release);
        verdicts
    }
}
