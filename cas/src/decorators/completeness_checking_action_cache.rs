//! A decorator under which a result is a hit only while all its outputs are there.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::instance_blob_stores::InstanceBlobStores;
use crate::result_blobs::{ResultBlobs, root_digests};

/// Hides results whose blobs are absent.
///
/// Goes directly around the cache of a server: a client that gets a result relies on every blob it names, for as long as
/// its build takes. The check calls [`find_missing`](crate::BlobStore::find_missing), which extends the lifetime of the
/// blobs that are present.
pub struct CompletenessCheckingActionCache {
    inner: Arc<dyn ActionCache>,
    stores: InstanceBlobStores,
    /// Its memory is shared by all tenants: a Tree is looked for in the store of the instance before, and all that it names
    /// afterwards.
    blobs: ResultBlobs,
}

impl CompletenessCheckingActionCache {
    /// Decorates `inner`, whose results name blobs of the store of their instance.
    pub fn new(inner: Arc<dyn ActionCache>, stores: impl Into<InstanceBlobStores>) -> Self {
        Self {
            inner,
            blobs: ResultBlobs::default(),
            stores: stores.into(),
        }
    }
}

#[async_trait]
impl ActionCache for CompletenessCheckingActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let Some(result) = self.inner.get(instance, action).await? else {
            return Ok(None);
        };
        let store = self.stores.store(instance);
        if self.stores.tenant(instance).is_some() {
            let missing = store
                .find_missing(&root_digests(action.function(), &result))
                .await?;
            if let Some(first) = missing.first() {
                tracing::debug!(%action, %first, "a cached result names a tree that the tenant does not have");
                return Ok(None);
            }
        }
        let needed = match self.blobs.needed(&*store, action.function(), &result).await {
            Ok(needed) => needed,
            Err(Error::NotFound(missing)) => {
                tracing::debug!(%action, %missing, "a cached result is incomplete");
                return Ok(None);
            }
            Err(
                error @ (Error::InvalidArgument(_)
                | Error::InvalidDirectory { .. }
                | Error::TreeTooLarge { .. }
                | Error::DigestMismatch { .. }
                | Error::Decode { .. }),
            ) => {
                // No client could use it; executing the Action again replaces it.
                tracing::warn!(%action, %error, "a cached result is malformed");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let missing = store.find_missing(&needed.digests).await?;
        if let Some(first) = missing.first() {
            tracing::debug!(%action, missing = missing.len(), %first, "a cached result is incomplete");
            return Ok(None);
        }
        Ok(Some(result))
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.inner.put(instance, action, result).await
    }
}

#[cfg(test)]
mod tests;
