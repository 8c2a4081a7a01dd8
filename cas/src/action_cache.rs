//! The trait that every action cache and its decorators implement.

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::error::Error;

/// A store of the results of Actions.
#[async_trait]
pub trait ActionCache: Send + Sync + 'static {
    /// Looks up the result of an Action; `None` if there is none.
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error>;

    /// Stores a result and replaces an older one. The caller guarantees that the result is correct and that its blobs are
    /// in the blob store already.
    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error>;
}
