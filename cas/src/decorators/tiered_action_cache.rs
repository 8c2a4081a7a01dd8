//! Fast action cache in front of a slow one.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tracing::warn;

use crate::action_cache::ActionCache;
use crate::error::Error;
use bitzel_proto::with_causes;

/// Looks into a fast cache first and stores in it the results of a slow one. A result is put into both and acknowledged
/// when the slow one has it.
///
/// A result that another client replaces in the slow cache is served in its old form for as long as the fast one keeps
/// it. The old result is still correct, because an Action can have several; do without this decorator where the new one
/// must be served everywhere. Put completeness checking above it, not below: the blobs of an old result may be gone.
///
/// A failure of the fast cache costs speed and is logged.
pub struct TieredActionCache {
    fast: Arc<dyn ActionCache>,
    slow: Arc<dyn ActionCache>,
}

impl TieredActionCache {
    /// Puts `fast` in front of `slow`.
    pub fn new(fast: Arc<dyn ActionCache>, slow: Arc<dyn ActionCache>) -> Self {
        Self { fast, slow }
    }

    async fn fill(&self, instance: &InstanceName, action: Digest, result: ActionResult) {
        if let Err(error) = self.fast.put(instance, action, result).await {
            let error = with_causes(&error);
            warn!(%action, error, "the fast action cache did not take a result");
        }
    }
}

#[async_trait]
impl ActionCache for TieredActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        match self.fast.get(instance, action).await {
            Ok(Some(result)) => return Ok(Some(result)),
            Ok(None) => {}
            Err(error) => {
                let error = with_causes(&error);
                warn!(%action, error, "the fast action cache failed");
            }
        }
        let result = self.slow.get(instance, action).await?;
        if let Some(result) = &result {
            self.fill(instance, action, result.clone()).await;
        }
        Ok(result)
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.slow.put(instance, action, result.clone()).await?;
        self.fill(instance, action, result).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::{FailingActionCache, result};
    use crate::testing::sha256;

    #[tokio::test]
    async fn hits_of_the_slow_cache_are_stored_in_the_fast_one() {
        let (fast, slow) = (
            Arc::new(MemoryActionCache::default()),
            Arc::new(MemoryActionCache::default()),
        );
        let cache = TieredActionCache::new(Arc::clone(&fast) as _, Arc::clone(&slow) as _);
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        assert_eq!(cache.get(&instance, action).await.unwrap(), None);
        slow.put(&instance, action, result(1)).await.unwrap();
        assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(1)));
        assert_eq!(fast.get(&instance, action).await.unwrap(), Some(result(1)));
        cache.put(&instance, action, result(2)).await.unwrap();
        for cache in [&fast, &slow] {
            assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(2)));
        }
    }

    #[tokio::test]
    async fn only_the_slow_cache_has_to_work() {
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        let memory = Arc::new(MemoryActionCache::default());
        let cache = TieredActionCache::new(Arc::new(FailingActionCache), Arc::clone(&memory) as _);
        cache.put(&instance, action, result(1)).await.unwrap();
        assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(1)));
        let memory = Arc::new(MemoryActionCache::default());
        let cache = TieredActionCache::new(Arc::clone(&memory) as _, Arc::new(FailingActionCache));
        assert!(cache.put(&instance, action, result(1)).await.is_err());
        assert_eq!(memory.get(&instance, action).await.unwrap(), None);
        assert!(cache.get(&instance, action).await.is_err());
    }
}
