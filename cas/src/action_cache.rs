//! The trait of action caches.

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::error::Error;

/// Remembers what Actions resulted in.
#[async_trait]
pub trait ActionCache: Send + Sync + 'static {
    /// The result of an Action, `None` when none is known.
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error>;

    /// Remembers a result, replacing an older one. The caller answers for the result being right and for its blobs
    /// being in the store already.
    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error>;
}
