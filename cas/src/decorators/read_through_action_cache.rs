//! Local action cache that reads through to a remote one.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::action_cache::ActionCache;
use crate::blob_store::BlobStore;
use crate::decorators::circuit_breaker::CircuitBreaker;
use crate::error::Error;
use crate::result_blobs::ResultBlobs;
use crate::upload::{BlobSource, upload};

/// Results that are uploaded to the remote at the same time.
const MAX_CONCURRENT_UPLOADS: usize = 4;

/// Read-through from, and asynchronous write-through to, a remote action cache.
///
/// An upload runs in the background and sends the blobs that a result names before the result, so that the remote
/// never holds a result without them. A remote that fails is not used for a while, and fails no call.
pub struct ReadThroughActionCache {
    local: Arc<dyn ActionCache>,
    remote: Arc<dyn ActionCache>,
    circuit_breaker: Arc<CircuitBreaker>,
    /// `None` without write-through.
    uploader: Option<Arc<Uploader>>,
    uploads: TaskTracker,
}

impl ReadThroughActionCache {
    /// Puts `local` in front of `remote`. Nothing is written to the remote.
    pub fn new(
        local: Arc<dyn ActionCache>,
        remote: Arc<dyn ActionCache>,
        circuit_breaker: Arc<CircuitBreaker>,
    ) -> Self {
        Self {
            local,
            remote,
            circuit_breaker,
            uploader: None,
            uploads: TaskTracker::new(),
        }
    }

    /// Writes new results through to the remote too, and the blobs that they name from `local_blobs` to `remote_blobs`.
    #[must_use]
    pub fn with_write_through(
        mut self,
        local_blobs: Arc<dyn BlobStore>,
        remote_blobs: Arc<dyn BlobStore>,
    ) -> Self {
        self.uploader = Some(Arc::new(Uploader {
            remote: Arc::clone(&self.remote),
            result_blobs: ResultBlobs::default(),
            local_blobs,
            remote_blobs,
            circuit_breaker: Arc::clone(&self.circuit_breaker),
            slots: Semaphore::new(MAX_CONCURRENT_UPLOADS),
        }));
        self
    }

    /// Waits until the upload of every result that was put so far has ended.
    pub async fn settled(&self) {
        self.uploads.close();
        self.uploads.wait().await;
        self.uploads.reopen();
    }
}

#[async_trait]
impl ActionCache for ReadThroughActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        if let Some(result) = self.local.get(instance, action).await? {
            return Ok(Some(result));
        }
        // It is not put into the local cache: only a decorator above checks that its blobs are present.
        let call = self.remote.get(instance, action);
        Ok(self.circuit_breaker.call(call).await.flatten())
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.local.put(instance, action, result.clone()).await?;
        if let Some(uploader) = &self.uploader {
            let (uploader, instance) = (Arc::clone(uploader), instance.clone());
            self.uploads.spawn(async move {
                // The semaphore is never closed.
                let Ok(_slot) = uploader.slots.acquire().await else {
                    return;
                };
                uploader.upload(&instance, action, result).await;
            });
        }
        Ok(())
    }
}

/// Uploads results and their blobs to the remote.
struct Uploader {
    remote: Arc<dyn ActionCache>,
    local_blobs: Arc<dyn BlobStore>,
    remote_blobs: Arc<dyn BlobStore>,
    result_blobs: ResultBlobs,
    circuit_breaker: Arc<CircuitBreaker>,
    slots: Semaphore,
}

impl Uploader {
    async fn upload(&self, instance: &InstanceName, action: Digest, result: ActionResult) {
        // A blob that the local store has evicted meanwhile cannot be uploaded; that is no failure of the remote.
        let needed = self
            .result_blobs
            .needed(&*self.local_blobs, action.function(), &result)
            .await;
        let needed = match needed {
            Ok(needed) => needed,
            Err(error) => {
                tracing::debug!(%action, %error, "a result is not uploaded");
                return;
            }
        };
        let call = self.remote_blobs.find_missing(&needed.digests);
        let Some(missing) = self.circuit_breaker.call(call).await else {
            return;
        };
        let source = || BlobSource::Store(Arc::clone(&self.local_blobs));
        let missing = missing.into_iter().map(|digest| (digest, source()));
        if let Err(error) = upload(&*self.remote_blobs, missing).await {
            match error {
                Error::NotFound(digest) => tracing::debug!(%action, %digest, "a result is not uploaded"),
                error => self.circuit_breaker.record_failure(&error),
            }
            return;
        }
        let call = self.remote.put(instance, action, result);
        let _reported = self.circuit_breaker.call(call).await;
    }
}

#[cfg(test)]
mod tests;
