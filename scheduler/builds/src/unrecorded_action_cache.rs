//! Action cache of a build whose owner may not write results.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::{ActionCache, Error};
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

/// Looks results up and records none. The build is correct without them, only other builds do not find its results
/// (decision 0021).
pub(crate) struct UnrecordedActionCache(pub(crate) Arc<dyn ActionCache>);

#[async_trait]
impl ActionCache for UnrecordedActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.0.get(instance, action).await
    }

    async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
        Ok(())
    }
}
