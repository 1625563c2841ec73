//! What time brings: automatic rotation and the end of waiting periods (KMS.md sections 10, 11 and 16).

use std::time::Duration;

use serde_json::json;

use super::Shared;
use super::import::expire;
use super::lifecycle::{material, put};
use super::multi_region::{leave, synchronize};
use crate::kms::model::RotationType;
use crate::kms::store::{
    AliasRecord, Change, ClockRecord, DueKind, GrantRecord, KeyEntry, Rotation, below, key_row_id,
};
use crate::kms::{KmsError, object};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::Timestamp;

/// A longer step forward than this is a stopped computer or a wrong clock.
const JUMP: Duration = Duration::from_secs(24 * 3600);
/// A jump is believed when the clock still agrees with it this much later.
const CONFIRMATION: Duration = Duration::from_secs(3600);
/// A step back that is worth a line in the log.
const BEHIND: Duration = Duration::from_secs(60);
/// How finely the last observation is kept: an idle mount does not write more often for its clock's sake.
const GRAIN: Duration = Duration::from_secs(15 * 60);

/// What is known of the clock after it was seen to show `now`.
pub fn observe(before: ClockRecord, now: Timestamp) -> ClockRecord {
    let jumped = if now.since(before.last) > JUMP {
        Some(now)
    } else {
        // Going back behind the jump takes it back; an hour of agreement confirms it.
        before.jumped.filter(|since| now >= *since && now.since(*since) < CONFIRMATION)
    };
    if jumped == before.jumped && now.since(before.last) < GRAIN && before.last.since(now) < GRAIN {
        return before;
    }
    ClockRecord { highest: before.highest.max(now), last: now, jumped }
}

impl Shared {
    /// Observes the clock and does what is due, in one change; keys that end together share one epoch.
    pub fn maintain(&self, now: Timestamp) -> Result<(), KmsError> {
        let clock = self.store.observe_clock(|before| observe(before, now))?;
        if clock.highest.since(now) > BEHIND {
            tracing::warn!(now = %now, highest = %clock.highest, "the clock is behind a time that was seen before");
        }
        let held_until = clock.jumped.map_or(i64::MIN, |since| since.plus(CONFIRMATION).as_nanos());
        self.held_until.store(held_until, Ordering::Relaxed);
        self.latest.fetch_max(clock.highest.as_nanos(), Ordering::Relaxed);
        let snapshot = self.store.current()?;
        if clock.jumped.is_some() && snapshot.first_due(DueKind::Deletion).is_some_and(|at| now >= at) {
            tracing::warn!("the clock has jumped by more than a day: due deletions wait for an hour of agreement");
        }
        if !self.is_due(&snapshot, now) {
            return Ok(());
        }
        self.store.change(|change| {
            // Wrapping keys live shorter than the shortest waiting period: a key that ends has none left.
            expire(self, change, self.times(now))?;
            let snapshot = change.snapshot().clone();
            let mut destroyed = 0;
            for key in snapshot.due_keys(DueKind::Rotation, now) {
                rotate_if_due(self, change, key, now)?;
            }
            for key in snapshot.due_keys(DueKind::Deletion, now).filter(|_| clock.jumped.is_none()) {
                destroy(self, change, key, now)?;
                destroyed += 1;
            }
            if destroyed > 0 {
                change.new_epoch();
                let event = self.service_event("RotateDomainKey", json!({ "deletedKeys": destroyed }), None);
                change.record(event.render(&*self.entropy));
            }
            Ok(())
        })?;
        self.audit.flush().map_err(KmsError::from)
    }
}

/// Rotates `key` once if its automatic rotation is due, however often it was missed.
pub fn rotate_if_due(shared: &Shared, change: &mut Change<'_>, key: &KeyEntry, now: Timestamp) -> Result<(), KmsError> {
    let Some(mut next) = key.rotation_due().filter(|due| now >= *due) else { return Ok(()) };
    let days = key.record.rotation.period_days.max(1);
    while next <= now {
        next = next.plus_days(days);
    }
    let key = rotate(shared, change, key, RotationType::Automatic, now)?;
    let key = put(change, &key, |record| record.rotation.next = Some(next))?;
    synchronize(shared, change, &key)?;
    let details = json!({ "keyId": key.arn.as_str(), "keyMaterialId": key.record.current_material });
    change.record(shared.service_event("RotateKey", details, Some(&key.arn)).render(&*shared.entropy));
    Ok(())
}

/// Gives `key` new current material; the older stays for decryption.
pub fn rotate(
    shared: &Shared,
    change: &mut Change<'_>,
    key: &KeyEntry,
    kind: RotationType,
    now: Timestamp,
) -> Result<Arc<KeyEntry>, KmsError> {
    let generation = key.materials.last().map_or(0, |material| material.record.generation + 1);
    let material = material(&key.record.key_id, object::symmetric(&*shared.entropy), generation, Some(kind), now);
    let material_id = material.record.material_id.clone();
    let row_id = key_row_id(&key.record.region, &key.record.key_id);
    change.put_material(&row_id, material)?;
    put(change, key, |record| {
        record.current_material = Some(material_id);
        record.rotation.on_demand += u32::from(kind == RotationType::OnDemand);
    })
}

/// Ends the life of `key`: its material, metadata and aliases go, a tombstone stays.
fn destroy(shared: &Shared, change: &mut Change<'_>, key: &KeyEntry, now: Timestamp) -> Result<(), KmsError> {
    let row_id = key_row_id(&key.record.region, &key.record.key_id);
    let in_token = shared.destroy_in_token(change.snapshot(), key);
    for material in &key.materials {
        change.delete_material(&row_id, &material.record.material_id)?;
    }
    let aliases: Vec<Arc<str>> = change.snapshot().aliases_of(&row_id).cloned().collect();
    for alias in aliases {
        change.delete::<AliasRecord>(&alias);
    }
    let prefix = format!("{row_id}/");
    let grants: Vec<Arc<str>> = below(&change.snapshot().grants, &prefix, None).map(|(id, _)| id.clone()).collect();
    for grant in grants {
        change.delete::<GrantRecord>(&grant);
    }
    put(change, key, |record| {
        record.description.clear();
        record.tags.clear();
        record.policy = None;
        record.current_material = None;
        record.rotation = Rotation { enabled: false, period_days: 0, next: None, on_demand: 0 };
        record.destroyed = Some(now);
    })?;
    leave(change, key, now)?;
    let mut details = json!({ "keyId": key.arn.as_str() });
    if let Some(outcome) = in_token {
        details["keyInToken"] = outcome.into();
    }
    let event = shared.service_event("DeleteKey", details, Some(&key.arn));
    change.record(event.render(&*shared.entropy));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_secs(hours * 3600)
    }

    #[test]
    fn a_jump_is_believed_after_an_hour_of_agreement() {
        let start = ClockRecord { highest: at(0), last: at(0), jumped: None };
        assert_eq!(observe(start, at(23)).jumped, None);
        let jumped = observe(start, at(100));
        assert_eq!(jumped.jumped, Some(at(100)));
        assert_eq!(observe(jumped, at(100)).jumped, Some(at(100)));
        assert_eq!(observe(jumped, at(101)).jumped, None);
        // Back to before the jump: the clock was wrong.
        let back = observe(jumped, at(1));
        assert_eq!((back.jumped, back.highest), (None, at(100)));
        // A second jump is not an agreement.
        assert_eq!(observe(jumped, at(200)).jumped, Some(at(200)));
    }
}
