//! Completed operations that clients can still find.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::ids::OperationId;
use crate::clock::Time;

/// Maximum size of an outcome that is kept, in memory and in the journal. Clients of a larger one execute again and find
/// the result in the action cache.
pub const MAX_OUTCOME_BYTES: usize = 1 << 20;
/// Maximum size of all outcomes that are kept.
const MAX_TOTAL_BYTES: usize = 256 << 20;
/// Maximum size of the outcomes of one user that are kept: some thousand ordinary ones.
const MAX_USER_BYTES: usize = 64 << 20;

/// A completed operation.
#[derive(Debug)]
pub(super) struct CompletedOperation {
    pub(super) at: Time,
    pub(super) operation: OperationId,
    pub(super) user: Arc<str>,
    /// Size of the outcome.
    pub(super) bytes: usize,
}

/// Completed operations, oldest first.
#[derive(Debug, Default)]
pub(super) struct CompletedOperations {
    operations: VecDeque<CompletedOperation>,
    bytes: usize,
    user_bytes: HashMap<Arc<str>, usize>,
}

impl CompletedOperations {
    pub(super) fn push(&mut self, completed: CompletedOperation) {
        self.bytes += completed.bytes;
        *self.user_bytes.entry(completed.user.clone()).or_default() += completed.bytes;
        self.operations.push_back(completed);
    }

    /// Time at which the oldest one completed.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.operations.front().map(|completed| completed.at)
    }

    /// Takes one that is too old, too many or too large. `None` if all may be kept.
    pub(super) fn take_excess(
        &mut self,
        now: Time,
        retention: Duration,
        max_operations: usize,
    ) -> Option<OperationId> {
        let (oldest, newest) = (self.operations.front()?, self.operations.back()?);
        let index = if newest.bytes > MAX_OUTCOME_BYTES {
            self.operations.len() - 1
        } else if now >= oldest.at + retention
            || self.operations.len() > max_operations
            || self.bytes > MAX_TOTAL_BYTES
        {
            0
        } else if self
            .user_bytes
            .get(&newest.user)
            .is_some_and(|bytes| *bytes > MAX_USER_BYTES)
        {
            // Only the newest one can have made its user exceed the limit.
            let mut users = self.operations.iter().map(|completed| &completed.user);
            users.position(|user| *user == newest.user)?
        } else {
            return None;
        };
        let taken = self.operations.remove(index)?;
        self.bytes -= taken.bytes;
        if let Some(bytes) = self.user_bytes.get_mut(&taken.user) {
            *bytes -= taken.bytes;
            if *bytes == 0 {
                self.user_bytes.remove(&taken.user);
            }
        }
        Some(taken.operation)
    }
}
