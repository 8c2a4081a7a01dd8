//! Ignores `PERMISSION_DENIED` on writes, for callers with read-only access.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use tonic::Code;

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::notice::NOTICE;

/// Ignores `PERMISSION_DENIED` and `UNAUTHENTICATED` on writes: warns once and sends no more results. The build is
/// correct without them, only other builds do not find its results. All other failures are passed on.
pub struct DenialToleratingActionCache {
    inner: Arc<dyn ActionCache>,
    is_denied: AtomicBool,
}

impl DenialToleratingActionCache {
    /// Decorates a remote action cache.
    pub fn new(inner: Arc<dyn ActionCache>) -> Self {
        Self {
            inner,
            is_denied: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl ActionCache for DenialToleratingActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        self.inner.get(instance, action).await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        if self.is_denied.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.inner.put(instance, action, result).await {
            Err(Error::Remote { source, .. })
                if matches!(source.code(), Code::PermissionDenied | Code::Unauthenticated) =>
            {
                if !self.is_denied.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        target: NOTICE,
                        reason = source.message(),
                        "the server takes no results from this build, so other builds will not find them; the build \
                         continues"
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
