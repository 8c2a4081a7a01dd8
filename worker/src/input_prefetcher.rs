//! The trait of everything that fetches the inputs of Actions before they are there.

use async_trait::async_trait;
use bitzel_proto::{Digest, InstanceName};

use crate::error::Error;
use crate::input_root::PrefetchedInputs;

/// Action that the scheduler is likely to assign to this worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpcomingAction {
    /// Instance whose store holds the blobs of the Action.
    pub instance: InstanceName,
    /// Digest of the Action message.
    pub action: Digest,
}

/// Fetches the inputs of upcoming Actions.
#[async_trait]
pub trait InputPrefetcher: Send + Sync + 'static {
    /// Brings inputs of an Action into the caches of this worker, within its bounds. They stay there while the result
    /// lives. Dropping the future ends the fetch.
    async fn prefetch(&self, upcoming: &UpcomingAction) -> Result<PrefetchedInputs, Error>;
}
