//! What is to be run.

use std::time::SystemTime;

use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::{Digest, InstanceName};

use crate::platform::Requirements;

/// What makes two requests ask for the same thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ActionKey {
    /// The instance whose action cache takes the result.
    pub instance: InstanceName,
    /// The Action.
    pub digest: Digest,
}

/// An Action with what the queue has to know about it.
#[derive(Debug, Clone)]
pub struct QueuedAction {
    /// What it is.
    pub key: ActionKey,
    /// `Action.do_not_cache`: neither cached nor joined by other requests.
    pub do_not_cache: bool,
    /// What the worker has to offer.
    pub requirements: Requirements,
    /// `ExecutionPolicy.priority`: smaller runs sooner.
    pub priority: i32,
    /// When the request came, for timestamps.
    pub queued: SystemTime,
    /// What the client said about itself, passed on for logs.
    pub request_metadata: Option<RequestMetadata>,
}
