//! A build as the server knows it.

use std::fmt;
use std::time::SystemTime;

use bitzel_access::{Identity, PermissionSet};
use bitzel_graph::walk::BuildEvent;
use bitzel_proto::{Digest, InstanceName};
use uuid::Uuid;

use crate::event_log::TaskCounts;

/// Identifier of a build, which its client chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(pub Uuid);

impl fmt::Display for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(formatter)
    }
}

/// Owner of a build: the caller that has handed it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The identity. All callers without credentials are one.
    pub identity: Identity,
    /// Permissions on the build's instance when it was handed over. The walk has no others.
    pub permissions: PermissionSet,
}

impl Owner {
    /// Name of the user, as access control states it.
    pub fn user(&self) -> String {
        self.identity.to_string()
    }
}

/// A build that a client has handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// Instance of the store, the action cache and the executions.
    pub instance: InstanceName,
    /// Owner.
    pub owner: Owner,
    /// Blob with the plan.
    pub plan: Digest,
    /// The targets, for people.
    pub targets: Vec<String>,
    /// Time of the hand-over.
    pub started: SystemTime,
}

/// End of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildEnd {
    /// Kind of the end.
    pub ending: Ending,
    /// Time of the end.
    pub at: SystemTime,
    /// Error of the build as a whole.
    pub error: Option<String>,
    /// Blob with the results that an output directory gets.
    pub results: Option<Digest>,
    /// Numbers of finished tasks.
    pub counts: TaskCounts,
    /// Events that are kept for clients that attach later: failures, and the summary.
    pub events: Vec<BuildEvent>,
}

/// Kind of the end of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All tasks have results.
    Succeeded,
    /// Tasks failed, or the build itself.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}
