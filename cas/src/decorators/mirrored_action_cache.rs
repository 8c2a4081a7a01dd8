//! Mirror of two action caches.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tracing::warn;

use crate::action_cache::ActionCache;
use crate::decorators::mirrored_blob_store::OneSideDown;
use crate::error::Error;
use bitzel_proto::with_causes;

/// Puts every result into two caches and looks into both, the first one first.
///
/// A result that only one side has is put into the other when it is looked up. While one side fails the other answers;
/// [`OneSideDown`] decides about new results then.
pub struct MirroredActionCache {
    sides: [Arc<dyn ActionCache>; 2],
    one_side_down: OneSideDown,
}

impl MirroredActionCache {
    /// A mirror of two caches. Where they differ, `one` wins.
    pub fn new(one: Arc<dyn ActionCache>, other: Arc<dyn ActionCache>, one_side_down: OneSideDown) -> Self {
        Self {
            sides: [one, other],
            one_side_down,
        }
    }

    async fn repair(&self, side: usize, instance: &InstanceName, action: Digest, result: &ActionResult) {
        let put = self.sides[side].put(instance, action, result.clone()).await;
        let outcome = if put.is_ok() { "ok" } else { "error" };
        metrics::counter!("bitzel_action_cache_mirror_repairs_total", "outcome" => outcome).increment(1);
        if let Err(error) = put {
            let error = with_causes(&error);
            warn!(%action, error, "a result that one side of a mirror lacks could not be copied there");
        }
    }
}

#[async_trait]
impl ActionCache for MirroredActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let [one, other] = &self.sides;
        match tokio::join!(one.get(instance, action), other.get(instance, action)) {
            (Ok(Some(result)), Ok(None)) => {
                self.repair(1, instance, action, &result).await;
                Ok(Some(result))
            }
            (Ok(None), Ok(Some(result))) => {
                self.repair(0, instance, action, &result).await;
                Ok(Some(result))
            }
            (Ok(Some(result)), _) | (Err(_), Ok(Some(result))) => Ok(Some(result)),
            (Ok(None), Ok(None)) => Ok(None),
            (Ok(None), Err(error)) | (Err(error), Ok(None)) => match self.one_side_down {
                OneSideDown::Refuse => Err(error),
                OneSideDown::Degrade => Ok(None),
            },
            (Err(error), Err(_)) => Err(error),
        }
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let [one, other] = &self.sides;
        let put = tokio::join!(
            one.put(instance, action, result.clone()),
            other.put(instance, action, result)
        );
        match put {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(error)) | (Err(error), Ok(())) if self.one_side_down == OneSideDown::Degrade => {
                let error = with_causes(&error);
                warn!(%action, error, "a result was put into one side of a mirror only");
                Ok(())
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::{FailingActionCache, result};
    use crate::testing::sha256;

    #[tokio::test]
    async fn a_result_that_one_side_lacks_is_found_and_repaired() {
        let sides = [(); 2].map(|()| Arc::new(MemoryActionCache::default()));
        let cache = MirroredActionCache::new(
            Arc::clone(&sides[0]) as _,
            Arc::clone(&sides[1]) as _,
            OneSideDown::Refuse,
        );
        let instance = InstanceName::default();
        for (number, side) in [(0_u8, &sides[0]), (1, &sides[1])] {
            side.put(&instance, sha256(&[number]), result(1)).await.unwrap();
        }
        cache.put(&instance, sha256(&[2]), result(1)).await.unwrap();
        for number in 0..3_u8 {
            let found = cache.get(&instance, sha256(&[number])).await.unwrap();
            assert_eq!(found, Some(result(1)));
            for side in &sides {
                assert!(side.get(&instance, sha256(&[number])).await.unwrap().is_some());
            }
        }
        assert_eq!(cache.get(&instance, sha256(&[3])).await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_side_down_refuses_unless_it_may_degrade() {
        let (instance, action) = (InstanceName::default(), sha256(b"action"));
        for policy in [OneSideDown::Refuse, OneSideDown::Degrade] {
            for down in [0, 1] {
                let memory: Arc<dyn ActionCache> = Arc::new(MemoryActionCache::default());
                let failing: Arc<dyn ActionCache> = Arc::new(FailingActionCache);
                let mut sides = [failing, Arc::clone(&memory)];
                if down == 1 {
                    sides.reverse();
                }
                let [one, other] = sides;
                let cache = MirroredActionCache::new(one, other, policy);
                let degrades = policy == OneSideDown::Degrade;
                assert_eq!(cache.get(&instance, action).await.is_ok(), degrades);
                assert_eq!(cache.put(&instance, action, result(1)).await.is_ok(), degrades);
                memory.put(&instance, action, result(1)).await.unwrap();
                assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(1)));
            }
        }
        let cache = MirroredActionCache::new(
            Arc::new(FailingActionCache),
            Arc::new(FailingActionCache),
            OneSideDown::Degrade,
        );
        assert!(cache.get(&instance, action).await.is_err());
        assert!(cache.put(&instance, action, result(1)).await.is_err());
    }
}
