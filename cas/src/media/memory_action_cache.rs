//! Action cache in memory, for tests and for servers that need not survive a restart.

use std::collections::HashMap;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use parking_lot::RwLock;

use crate::action_cache::ActionCache;
use crate::error::Error;

/// Action cache in memory, without eviction.
#[derive(Debug, Default)]
pub struct MemoryActionCache {
    results: RwLock<HashMap<(InstanceName, Digest), ActionResult>>,
}

#[async_trait]
impl ActionCache for MemoryActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        Ok(self.results.read().get(&(instance.clone(), action)).cloned())
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        self.results.write().insert((instance.clone(), action), result);
        Ok(())
    }
}
