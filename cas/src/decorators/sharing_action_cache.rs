//! An action cache that shares its results with a remote one.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::action_cache::ActionCache;
use crate::blob_store::BlobStore;
use crate::decorators::assistant::Assistant;
use crate::error::Error;
use crate::result_blobs::ResultBlobs;
use crate::upload::{BlobSource, upload};

/// Results that are brought to the remote at the same time.
const CONCURRENCY: usize = 4;

/// A cache of its own, and a remote one from which it takes what others found out and to which it gives what is new.
///
/// Giving happens in the background: first the blobs that a result names, then the result, so that the remote never
/// holds a result without them. A remote that fails gets nothing more for a while and fails nobody.
pub struct SharingActionCache {
    local: Arc<dyn ActionCache>,
    remote: Arc<dyn ActionCache>,
    assistant: Arc<Assistant>,
    /// `None`: nothing is given.
    giving: Option<Arc<Giving>>,
    tasks: TaskTracker,
}

struct Giving {
    cache: Arc<dyn ActionCache>,
    from: Arc<dyn BlobStore>,
    to: Arc<dyn BlobStore>,
    blobs: ResultBlobs,
    assistant: Arc<Assistant>,
    slots: Semaphore,
}

impl SharingActionCache {
    /// `local` and `remote`; nothing is given to the remote.
    pub fn taking(
        local: Arc<dyn ActionCache>,
        remote: Arc<dyn ActionCache>,
        assistant: Arc<Assistant>,
    ) -> Self {
        Self {
            local,
            remote,
            assistant,
            giving: None,
            tasks: TaskTracker::new(),
        }
    }

    /// Also gives to the remote what is put here. The blobs that results name are in `from`, and go to `to`.
    #[must_use]
    pub fn giving(mut self, from: Arc<dyn BlobStore>, to: Arc<dyn BlobStore>) -> Self {
        self.giving = Some(Arc::new(Giving {
            cache: Arc::clone(&self.remote),
            blobs: ResultBlobs::new(Arc::clone(&from)),
            from,
            to,
            assistant: Arc::clone(&self.assistant),
            slots: Semaphore::new(CONCURRENCY),
        }));
        self
    }

    /// Waits until everything that was put so far is given, or cannot be.
    pub async fn settled(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

#[async_trait]
impl ActionCache for SharingActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        if let Some(result) = self.local.get(instance, action).await? {
            return Ok(Some(result));
        }
        // It is not put into the local cache: whether its blobs are there is found out above.
        Ok(self
            .assistant
            .ask(self.remote.get(instance, action))
            .await
            .flatten())
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.local.put(instance, action, result.clone()).await?;
        if let Some(giving) = &self.giving {
            let (giving, instance) = (Arc::clone(giving), instance.clone());
            self.tasks.spawn(async move {
                // The semaphore is never closed.
                let Ok(_slot) = giving.slots.acquire().await else {
                    return;
                };
                giving.give(&instance, action, result).await;
            });
        }
        Ok(())
    }
}

impl Giving {
    async fn give(&self, instance: &InstanceName, action: Digest, result: ActionResult) {
        // What the local store has lost meanwhile cannot be given; that is no failure of the remote's.
        let needed = match self.blobs.needed(action.function(), &result).await {
            Ok(needed) => needed,
            Err(error) => {
                tracing::debug!(%action, %error, "a result is not shared");
                return;
            }
        };
        let unique: Vec<Digest> = needed.into_iter().collect::<HashSet<_>>().into_iter().collect();
        let Some(missing) = self.assistant.ask(self.to.find_missing(&unique)).await else {
            return;
        };
        let source = || BlobSource::Store(Arc::clone(&self.from));
        let missing = missing.into_iter().map(|digest| (digest, source()));
        if let Err(error) = upload(&*self.to, missing).await {
            match error {
                Error::NotFound(digest) => tracing::debug!(%action, %digest, "a result is not shared"),
                error => self.assistant.failed(&error),
            }
            return;
        }
        let put = self.cache.put(instance, action, result);
        let _told = self.assistant.ask(put).await;
    }
}

#[cfg(test)]
mod tests;
