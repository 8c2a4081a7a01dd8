//! Composition of a worker's Action executor from its layers.

use std::sync::Arc;

use crate::action_executor::ActionExecutor;
use crate::blob_stores::BlobStores;
use crate::config::ExecutorConfig;
use crate::error::Error;
use crate::input_prefetcher::InputPrefetcher;
use crate::metered_action_executor::MeteredActionExecutor;
use crate::sandboxed_action_executor::SandboxedActionExecutor;
use crate::timed_action_executor::TimedActionExecutor;
use crate::timestamped_action_executor::TimestampedActionExecutor;

/// Opens the directories of the worker and stacks the layers that execute Actions on it.
///
/// Fails if this machine cannot execute Actions at all: see [`SandboxedActionExecutor::open`].
pub async fn compose_executor(
    config: ExecutorConfig,
    stores: Arc<dyn BlobStores>,
) -> Result<Arc<dyn ActionExecutor>, Error> {
    Ok(compose_worker(config, stores).await?.executor)
}

/// Parts of a worker that use the same directories.
pub(crate) struct WorkerParts {
    pub(crate) executor: Arc<dyn ActionExecutor>,
    /// Fetches the inputs of upcoming Actions into the caches of the executor.
    pub(crate) prefetcher: Arc<dyn InputPrefetcher>,
    /// Space on disk for all Actions together.
    pub(crate) disk_bytes: u64,
}

/// As [`compose_executor`], with all parts.
pub(crate) async fn compose_worker(
    config: ExecutorConfig,
    stores: Arc<dyn BlobStores>,
) -> Result<WorkerParts, Error> {
    let (worker_name, total_time) = (config.worker_name.clone(), config.bounds.total_time);
    let sandboxed = Arc::new(SandboxedActionExecutor::open(config, stores).await?);
    let disk_bytes = sandboxed.space_for_changes().await?;
    let prefetcher = Arc::clone(&sandboxed) as Arc<dyn InputPrefetcher>;
    let timed = Arc::new(TimedActionExecutor::new(sandboxed, total_time));
    let timestamped = Arc::new(TimestampedActionExecutor::new(timed, worker_name));
    Ok(WorkerParts {
        executor: Arc::new(MeteredActionExecutor::new(timestamped)),
        prefetcher,
        disk_bytes,
    })
}
