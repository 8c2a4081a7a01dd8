//! Time limits for the calls to an action cache.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tokio::time::timeout;

use crate::action_cache::ActionCache;
use crate::decorators::deadline_blob_store::late;
use crate::error::Error;

/// Ends calls that take longer than a limit with [`Error::Deadline`].
pub struct DeadlineActionCache {
    inner: Arc<dyn ActionCache>,
    call: Duration,
}

impl DeadlineActionCache {
    /// Decorates `inner`; a call may take as long as `call`.
    pub fn new(inner: Arc<dyn ActionCache>, call: Duration) -> Self {
        Self { inner, call }
    }
}

#[async_trait]
impl ActionCache for DeadlineActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let found = timeout(self.call, self.inner.get(instance, action)).await;
        found.unwrap_or_else(|_| Err(late(format!("looking up action {action}"), self.call)))
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let put = timeout(self.call, self.inner.put(instance, action, result)).await;
        put.unwrap_or_else(|_| Err(late(format!("putting the result of action {action}"), self.call)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::failing_action_cache::result;
    use crate::testing::sha256;

    struct SilentActionCache;

    #[async_trait]
    impl ActionCache for SilentActionCache {
        async fn get(&self, _: &InstanceName, _: Digest) -> Result<Option<ActionResult>, Error> {
            std::future::pending().await
        }

        async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_never_answers_is_given_up_on() {
        let cache = DeadlineActionCache::new(Arc::new(SilentActionCache), Duration::from_secs(3));
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        let found = cache.get(&instance, action).await;
        assert!(matches!(found, Err(Error::Deadline { .. })), "{found:?}");
        let put = cache.put(&instance, action, result(1)).await;
        assert!(matches!(put, Err(Error::Deadline { .. })), "{put:?}");
    }
}
