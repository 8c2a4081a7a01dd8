//! Read-only view of an action cache.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::action_cache::ActionCache;
use crate::error::Error;

/// Lets look-ups through to another action cache and refuses results with [`Error::ReadOnly`].
pub struct ReadOnlyActionCache {
    inner: Arc<dyn ActionCache>,
}

impl ReadOnlyActionCache {
    /// A view of `inner`.
    pub fn new(inner: Arc<dyn ActionCache>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl ActionCache for ReadOnlyActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.inner.get(instance, action).await
    }

    async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
        Err(Error::ReadOnly("this action cache"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::result;
    use crate::testing::sha256;

    #[tokio::test]
    async fn look_ups_pass_and_results_are_refused() {
        let inner = Arc::new(MemoryActionCache::default());
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        inner.put(&instance, action, result(1)).await.unwrap();
        let cache = ReadOnlyActionCache::new(inner);
        let put = cache.put(&instance, action, result(2)).await;
        assert!(matches!(put, Err(Error::ReadOnly(_))), "{put:?}");
        assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(1)));
    }
}
