//! Requester of an Action.

use std::num::NonZeroU32;
use std::sync::Arc;

/// User and invocation that requested an Action. The queue shares slots between users, and the slots of a user between
/// their invocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// Name of the user, as access control states it. Callers without credentials are one user.
    pub user: Arc<str>,
    /// Share of the user: one with weight 2 gets twice the slots of one with weight 1.
    pub weight: NonZeroU32,
    /// Identifier of the invocation: all Actions of one build have the same. It is the client's claim.
    pub invocation: Arc<str>,
}

impl Default for Requester {
    fn default() -> Self {
        Self {
            user: Arc::default(),
            weight: NonZeroU32::MIN,
            invocation: Arc::default(),
        }
    }
}
