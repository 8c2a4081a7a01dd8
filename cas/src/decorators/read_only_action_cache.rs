//! A view of an action cache through which nothing is written.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::action_cache::ActionCache;
use crate::decorators::read_only_blob_store::Writes;
use crate::error::Error;

/// Lets look-ups through to another action cache, and no result.
pub struct ReadOnlyActionCache {
    inner: Arc<dyn ActionCache>,
    writes: Writes,
}

impl ReadOnlyActionCache {
    /// A view of `inner`. Results that are put may be refused or ignored; unlike with blobs, nothing relies on a
    /// result being there afterwards.
    pub fn new(inner: Arc<dyn ActionCache>, writes: Writes) -> Self {
        Self { inner, writes }
    }
}

#[async_trait]
impl ActionCache for ReadOnlyActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.inner.get(instance, action).await
    }

    async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
        self.writes.answer("this action cache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::result;
    use crate::testing::sha256;

    #[tokio::test]
    async fn look_ups_pass_and_no_result_does() {
        let inner = Arc::new(MemoryActionCache::default());
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        inner.put(&instance, action, result(1)).await.unwrap();
        for (writes, refused) in [(Writes::Refuse, true), (Writes::Ignore, false)] {
            let cache = ReadOnlyActionCache::new(Arc::clone(&inner) as _, writes);
            let put = cache.put(&instance, action, result(2)).await;
            assert_eq!(matches!(put, Err(Error::ReadOnly(_))), refused, "{put:?}");
            assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(1)));
        }
    }
}
