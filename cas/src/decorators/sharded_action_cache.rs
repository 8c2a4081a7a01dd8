//! Action cache whose results are spread over several others.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::action_cache::ActionCache;
use crate::decorators::rendezvous::Rendezvous;
use crate::decorators::sharded_blob_store::Shard;
use crate::error::Error;

/// Sends every Action to the cache that weighted rendezvous hashing of its digest chooses, whatever its instance.
pub struct ShardedActionCache {
    rendezvous: Rendezvous,
    caches: Vec<Arc<dyn ActionCache>>,
}

impl ShardedActionCache {
    /// A cache of these shards: at least one, with distinct names and weights above zero.
    pub fn new(shards: Vec<Shard<dyn ActionCache>>) -> Result<Self, Error> {
        Ok(Self {
            rendezvous: Rendezvous::new(shards.iter().map(|shard| (shard.name.as_str(), shard.weight)))?,
            caches: shards.into_iter().map(|shard| shard.store).collect(),
        })
    }

    fn cache(&self, action: Digest) -> &Arc<dyn ActionCache> {
        &self.caches[self.rendezvous.shard_of(action)]
    }
}

#[async_trait]
impl ActionCache for ShardedActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.cache(action).get(instance, action).await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.cache(action).put(instance, action, result).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::memory_action_cache::MemoryActionCache;
    use crate::testing::failing_action_cache::{FailingActionCache, result};
    use crate::testing::sha256;

    #[tokio::test]
    async fn every_action_has_its_shard() {
        let memory: Arc<dyn ActionCache> = Arc::new(MemoryActionCache::default());
        let shard = |name: &str, store: Arc<dyn ActionCache>| Shard {
            name: name.into(),
            weight: 1,
            store,
        };
        let shards = vec![shard("good", memory), shard("bad", Arc::new(FailingActionCache))];
        let cache = ShardedActionCache::new(shards).unwrap();
        let instance = InstanceName::default();
        let mut on_good = 0;
        for number in 0..40_u8 {
            let action = sha256(&[number]);
            if cache.rendezvous.shard_of(action) == 0 {
                on_good += 1;
                cache
                    .put(&instance, action, result(i32::from(number)))
                    .await
                    .unwrap();
                let found = cache.get(&instance, action).await.unwrap();
                assert_eq!(found, Some(result(i32::from(number))));
            } else {
                assert!(cache.put(&instance, action, result(1)).await.is_err());
                assert!(cache.get(&instance, action).await.is_err());
            }
        }
        assert!((5..35).contains(&on_good), "{on_good}");
    }
}
