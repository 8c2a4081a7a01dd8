//! Metrics of an action cache, for operators.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use metrics::{SharedString, counter, histogram};

use crate::action_cache::ActionCache;
use crate::error::Error;

/// Records metrics of the inner cache, through the `metrics` facade, each labelled with the `cache`'s name and the
/// `operation` (`get`, `put`):
///
/// - `bitzel_action_cache_requests_total`, also by `outcome`: `hit`, `miss`, `ok` (of a `put`) or `error`;
/// - `bitzel_action_cache_duration_seconds`.
pub struct MeteredActionCache {
    inner: Arc<dyn ActionCache>,
    name: SharedString,
}

impl MeteredActionCache {
    /// Metrics of `inner` under the name `name`.
    pub fn new(name: impl Into<String>, inner: Arc<dyn ActionCache>) -> Self {
        let name: Arc<str> = Arc::from(name.into());
        Self {
            inner,
            name: SharedString::from(name),
        }
    }

    fn record(&self, operation: &'static str, outcome: &'static str, start: Instant) {
        counter!("bitzel_action_cache_requests_total",
            "cache" => self.name.clone(), "operation" => operation, "outcome" => outcome)
        .increment(1);
        histogram!("bitzel_action_cache_duration_seconds", "cache" => self.name.clone(), "operation" => operation)
            .record(start.elapsed().as_secs_f64());
    }
}

#[async_trait]
impl ActionCache for MeteredActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let start = Instant::now();
        let found = self.inner.get(instance, action).await;
        let outcome = match &found {
            Ok(Some(_)) => "hit",
            Ok(None) => "miss",
            Err(_) => "error",
        };
        self.record("get", outcome, start);
        found
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let start = Instant::now();
        let put = self.inner.put(instance, action, result).await;
        self.record("put", if put.is_ok() { "ok" } else { "error" }, start);
        put
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decorators::metered_blob_store::tests::recorded;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::{FailingActionCache, result};
    use crate::testing::sha256;

    #[test]
    fn hits_misses_and_errors_are_counted_apart() {
        let metrics = recorded(async {
            let (instance, action) = (InstanceName::default(), sha256(b"action"));
            let cache = MeteredActionCache::new("disk", Arc::new(MemoryActionCache::default()));
            cache.get(&instance, action).await.unwrap();
            cache.put(&instance, action, result(1)).await.unwrap();
            cache.get(&instance, action).await.unwrap();
            cache.get(&instance, action).await.unwrap();
            let cache = MeteredActionCache::new("remote", Arc::new(FailingActionCache));
            assert!(cache.get(&instance, action).await.is_err());
            assert!(cache.put(&instance, action, result(1)).await.is_err());
        });
        let expected = [
            ("duration_seconds{cache=disk,operation=get}", 3),
            ("duration_seconds{cache=disk,operation=put}", 1),
            ("duration_seconds{cache=remote,operation=get}", 1),
            ("duration_seconds{cache=remote,operation=put}", 1),
            ("requests_total{cache=disk,operation=get,outcome=hit}", 2),
            ("requests_total{cache=disk,operation=get,outcome=miss}", 1),
            ("requests_total{cache=disk,operation=put,outcome=ok}", 1),
            ("requests_total{cache=remote,operation=get,outcome=error}", 1),
            ("requests_total{cache=remote,operation=put,outcome=error}", 1),
        ];
        let expected = expected.map(|(name, count)| (format!("bitzel_action_cache_{name}"), count));
        assert_eq!(metrics, expected.into());
    }
}
