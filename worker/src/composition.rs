//! Composition of a worker's Action executor from its layers.

use std::sync::Arc;

use crate::action_executor::ActionExecutor;
use crate::blob_stores::BlobStores;
use crate::config::ExecutorConfig;
use crate::error::Error;
use crate::metered_action_executor::MeteredActionExecutor;
use crate::sandboxed_action_executor::SandboxedActionExecutor;
use crate::timestamped_action_executor::TimestampedActionExecutor;

/// Opens the directories of the worker and stacks the layers that execute Actions on it.
///
/// Fails if this machine cannot execute Actions at all: see [`SandboxedActionExecutor::open`].
pub async fn compose_executor(
    config: ExecutorConfig,
    stores: Arc<dyn BlobStores>,
) -> Result<Arc<dyn ActionExecutor>, Error> {
    let worker_name = config.worker_name.clone();
    let sandboxed = Arc::new(SandboxedActionExecutor::open(config, stores).await?);
    let timestamped = Arc::new(TimestampedActionExecutor::new(sandboxed, worker_name));
    Ok(Arc::new(MeteredActionExecutor::new(timestamped)))
}
