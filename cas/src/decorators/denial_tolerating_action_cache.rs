//! Builds of people who may read results and not write them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tonic::Code;

use crate::action_cache::ActionCache;
use crate::error::Error;

/// Goes on when the server takes no results from this caller, after saying so once: the build is right without them,
/// only nobody else finds them. All other failures are passed on.
pub struct DenialToleratingActionCache {
    inner: Arc<dyn ActionCache>,
    denied: AtomicBool,
}

impl DenialToleratingActionCache {
    /// Decorates a remote action cache.
    pub fn new(inner: Arc<dyn ActionCache>) -> Self {
        Self {
            inner,
            denied: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl ActionCache for DenialToleratingActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.inner.get(instance, action).await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        if self.denied.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.inner.put(instance, action, result).await {
            Err(Error::Remote { source, .. })
                if matches!(source.code(), Code::PermissionDenied | Code::Unauthenticated) =>
            {
                if !self.denied.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        reason = source.message(),
                        "the server takes no results from this build: it goes on, and others will not find what it \
                         makes by signature"
                    );
                }
                Ok(())
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests;
