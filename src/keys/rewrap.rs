//! One job of wrapping data keys anew.

use std::collections::HashMap;

use super::{KeyError, KeyService};
use crate::sync::{Mutex, lock};
use crate::types::KeyArn;

/// What a job moves where, and what it has learnt of the keys: their current material is asked once, not for each file.
/// May be shared by the threads of the job.
#[derive(Debug, Default)]
pub struct RewrapJob {
    /// Only what this key wraps; everything if `None`.
    pub from: Option<KeyArn>,
    /// To this key; `None`: to the current material of each one's own key.
    pub to: Option<KeyArn>,
    /// The id of each key's current material, `None` where its key manager does not tell.
    current: Mutex<HashMap<KeyArn, Option<String>>>,
}

impl RewrapJob {
    /// A job of which nothing is done.
    pub fn new(from: Option<KeyArn>, to: Option<KeyArn>) -> Self {
        Self { from, to, current: Mutex::default() }
    }

    /// The id of the current material of `key`.
    ///
    /// # Errors
    /// The key manager's; they are not remembered.
    pub(super) fn current(&self, service: &dyn KeyService, key: &KeyArn) -> Result<Option<String>, KeyError> {
        // Held during the call: other threads of the job wait for the one answer.
        let mut current = lock(&self.current);
        if let Some(known) = current.get(key) {
            return Ok(known.clone());
        }
        let answer = service.current_material_id(key)?;
        current.insert(key.clone(), answer.clone());
        Ok(answer)
    }

    /// Notes what material a key was found to wrap with: it may have been rotated since it was asked.
    pub(super) fn wrapped_with(&self, key: &KeyArn, material: Option<String>) {
        lock(&self.current).insert(key.clone(), material);
    }
}
