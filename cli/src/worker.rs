//! Worker on this machine.

use std::path::PathBuf;
use std::time::Duration;

use bitzel_worker::config::this_platform;
use bitzel_worker::{Bounds, ExecutorConfig, ServerConnection, WorkerConfig, worker_loop};
use tokio_util::sync::CancellationToken;

use crate::command_error::CommandError;

/// Worker on this machine, before it is started.
pub(crate) struct LocalWorker {
    /// Directory of the file cache and of running Actions.
    pub(crate) cache_directory: PathBuf,
    /// Directory that running Actions write to. Default: `cache_directory`.
    pub(crate) scratch_directory: Option<PathBuf>,
    /// Maximum number of concurrent Actions. With 0, the worker only waits for its shutdown.
    pub(crate) slots: usize,
    /// Time that running Actions have after the shutdown began.
    pub(crate) drain_timeout: Duration,
    /// Bounds of each Action.
    pub(crate) bounds: Bounds,
}

impl LocalWorker {
    /// Runs Actions of `server` until `shutdown`. Without a server or slots it only waits for the shutdown.
    pub(crate) async fn run(
        self,
        server: Option<ServerConnection>,
        shutdown: CancellationToken,
    ) -> Result<(), CommandError> {
        let Some(server) = server.filter(|_| self.slots > 0) else {
            shutdown.cancelled().await;
            return Ok(());
        };
        let mut executor = ExecutorConfig::new(self.cache_directory);
        executor.scratch_directory = self.scratch_directory;
        executor.bounds = self.bounds;
        executor.worker_name = format!("{}-{}", host_name(), std::process::id());
        let config = WorkerConfig {
            slots: self.slots.try_into().unwrap_or(u32::MAX),
            platform: this_platform(),
            drain_timeout: self.drain_timeout,
            executor,
        };
        Ok(worker_loop::run(config, server, shutdown).await?)
    }
}

/// Platform properties of Actions of builds on this machine: workers must have the same platform.
pub(crate) fn platform_properties() -> Vec<(String, String)> {
    this_platform()
        .properties
        .into_iter()
        .map(|property| (property.name, property.value))
        .collect()
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}
