//! Actions in the queue.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::{Digest, InstanceName};

use super::requester::Requester;
use super::task_name::TaskName;
use crate::platform::RequiredProperties;
use crate::resources::Resources;

/// Identity of an Action in the queue: requests with the same key share one operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ActionKey {
    /// Instance whose action cache gets the result.
    pub instance: InstanceName,
    /// Digest of the Action.
    pub digest: Digest,
}

/// An Action with the properties that the queue needs.
#[derive(Debug, Clone)]
pub struct QueuedAction {
    /// Identity of the Action.
    pub key: ActionKey,
    /// `Action.do_not_cache`: neither cached nor joined by other requests.
    pub do_not_cache: bool,
    /// Platform properties that a worker must offer.
    pub requirements: RequiredProperties,
    /// Resources that it states. Zero where it states none.
    pub resources: Resources,
    /// Time that its build still takes from its start on, as the client computes it. Among the Actions of one invocation the
    /// longest one goes first.
    pub remaining_path: Duration,
    /// Starts of the digests of the largest trees in its input root, the most important first, as the client tells them. They
    /// only say on which worker it starts sooner.
    pub input_trees: Arc<[u64]>,
    /// User and invocation that requested it.
    pub requester: Requester,
    /// `ExecutionPolicy.priority` within the configured bounds: smaller runs sooner.
    pub priority: i32,
    /// Arrival of the request, for timestamps.
    pub queued: SystemTime,
    /// Request metadata of the client, passed on for logs.
    pub request_metadata: Option<RequestMetadata>,
}

impl QueuedAction {
    /// Name of its task over all builds, if the client tells it.
    pub fn task_name(&self) -> Option<TaskName> {
        TaskName::new(&self.key.instance, self.request_metadata.as_ref())
    }
}
