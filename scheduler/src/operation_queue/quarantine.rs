//! Quarantine of Actions whose workers are lost.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::action::ActionKey;
use crate::clock::Time;
use crate::error::ExecutionError;

/// Maximum number of Actions that are remembered. Beyond it, the oldest are forgotten.
const MAX_SUSPECTS: usize = 10_000;

/// Actions whose workers were lost while they ran. One that loses too many workers may be the cause: it uses all memory of
/// the machine, or crashes its kernel. It is not run again for a time.
#[derive(Debug)]
pub(super) struct Quarantine {
    workers_lost: NonZeroUsize,
    duration: Duration,
    suspects: HashMap<ActionKey, Suspect>,
    /// Suspects in the order of their last loss. One with a later loss appears again.
    expiries: VecDeque<(Time, ActionKey)>,
}

#[derive(Debug)]
struct Suspect {
    workers: Vec<Arc<str>>,
    expires: Time,
}

impl Quarantine {
    pub(super) fn new(workers_lost: NonZeroUsize, duration: Duration) -> Self {
        Self {
            workers_lost,
            duration,
            suspects: HashMap::new(),
            expiries: VecDeque::new(),
        }
    }

    /// Records the loss of a worker that ran an Action. Returns the error for its clients if that puts it into quarantine.
    pub(super) fn worker_lost(
        &mut self,
        now: Time,
        key: &ActionKey,
        worker: Arc<str>,
    ) -> Option<ExecutionError> {
        self.forget_expired(now);
        let expires = now + self.duration;
        let suspect = self.suspects.entry(key.clone()).or_insert_with(|| Suspect {
            workers: vec![],
            expires,
        });
        suspect.expires = expires;
        suspect.workers.push(worker);
        self.expiries.push_back((expires, key.clone()));
        self.refusal(now, key)
    }

    /// Error for the clients of an Action in quarantine.
    pub(super) fn refusal(&self, now: Time, key: &ActionKey) -> Option<ExecutionError> {
        let suspect = self.suspects.get(key)?;
        let quarantined = suspect.workers.len() >= self.workers_lost.get() && now < suspect.expires;
        quarantined.then(|| ExecutionError::Quarantined {
            action: key.digest,
            workers: suspect.workers.iter().map(|name| (**name).to_owned()).collect(),
            remaining: suspect.expires.since(now),
        })
    }

    /// Takes back the loss of a worker that came back with the Action: only its connection was lost.
    pub(super) fn worker_came_back(&mut self, key: &ActionKey, worker: &str) {
        let Some(suspect) = self.suspects.get_mut(key) else {
            return;
        };
        if let Some(index) = suspect.workers.iter().rposition(|lost| **lost == *worker) {
            suspect.workers.remove(index);
        }
        if suspect.workers.is_empty() {
            self.suspects.remove(key);
        }
    }

    /// Forgets the losses of an Action that a worker survived.
    pub(super) fn worker_survived(&mut self, key: &ActionKey) {
        self.suspects.remove(key);
    }

    fn forget_expired(&mut self, now: Time) {
        while let Some((expires, key)) = self.expiries.front()
            && (*expires <= now || self.expiries.len() >= MAX_SUSPECTS)
        {
            if self
                .suspects
                .get(key)
                .is_some_and(|suspect| suspect.expires == *expires)
            {
                self.suspects.remove(key);
            }
            self.expiries.pop_front();
        }
    }
}
