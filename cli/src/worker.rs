//! Worker on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitzel_proto::reapi::platform::Property;
use bitzel_worker::config::{offered_platform, this_platform};
use bitzel_worker::{
    Bounds, Error, ExecutorConfig, RootIdentity, ServerConnection, WorkerConfig, check_sandbox,
    sandbox_obstacles, worker_loop,
};
use tokio_util::sync::CancellationToken;

use crate::command_error::CommandError;
use crate::root::offered_identity;

/// Worker on this machine, before it is started.
pub(crate) struct LocalWorker {
    /// Directory of the file cache and of running Actions.
    pub(crate) cache_directory: PathBuf,
    /// Directory that running Actions write to. Default: `cache_directory`.
    pub(crate) scratch_directory: Option<PathBuf>,
    /// Limit of the file cache in bytes. Default: that of [`ExecutorConfig`].
    pub(crate) file_cache_size: Option<u64>,
    /// Limit of the inputs that are fetched before their Actions start. With 0 there are none.
    pub(crate) prefetch_size: u64,
    /// Limit of the directories and symlinks in layers of input roots. Default: that of [`ExecutorConfig`].
    pub(crate) max_layer_entries: Option<u64>,
    /// Platform properties in addition to those of this machine.
    pub(crate) properties: Vec<(String, String)>,
    /// Maximum number of concurrent Actions. With 0, the worker only waits for its shutdown.
    pub(crate) slots: usize,
    /// Name among the workers of the server. Default: host name and process id.
    pub(crate) name: Option<String>,
    /// Pool of workers that scale together; empty if it has none.
    pub(crate) pool: String,
    /// Identity of this machine's root file system. Default: computed.
    pub(crate) root_identity: Option<RootIdentity>,
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
        let mut executor = self.executor_config();
        let root_identity = offered_identity(self.root_identity).await;
        let default_name = || format!("{}-{}", host_name(), std::process::id());
        executor.worker_name = self.name.unwrap_or_else(default_name);
        let mut platform = offered_platform(root_identity.as_ref());
        let properties = self.properties.into_iter();
        platform
            .properties
            .extend(properties.map(|(name, value)| Property { name, value }));
        let config = WorkerConfig {
            slots: self.slots.try_into().unwrap_or(u32::MAX),
            platform,
            pool: self.pool,
            drain_timeout: self.drain_timeout,
            executor,
        };
        let cache_directory = config.executor.cache_directory.clone();
        worker_loop::run(config, server, shutdown)
            .await
            .map_err(|error| explain(error, &cache_directory))
    }

    /// Checks that this machine can run sandboxes, without a server. Returns a sentence about the network of Actions.
    pub(crate) async fn check(self) -> Result<&'static str, CommandError> {
        let executor = self.executor_config();
        check_sandbox(&executor)
            .await
            .map_err(|error| explain(error, &executor.cache_directory))
    }

    fn executor_config(&self) -> ExecutorConfig {
        let mut executor = ExecutorConfig::new(&self.cache_directory);
        executor.scratch_directory.clone_from(&self.scratch_directory);
        executor.bounds = self.bounds.clone();
        if let Some(size) = self.file_cache_size {
            executor.cache_size_bytes = size;
        }
        executor.prefetch_bytes = self.prefetch_size.min(executor.cache_size_bytes / 2);
        executor.max_layer_entries = self.max_layer_entries.unwrap_or(executor.max_layer_entries);
        executor
    }
}

/// Adds the settings that forbid sandboxes to an error that they have caused.
fn explain(error: Error, cache_directory: &Path) -> CommandError {
    let obstacles = match &error {
        Error::SandboxUnavailable { .. } => sandbox_obstacles(cache_directory),
        _ => vec![],
    };
    let error = CommandError::from(error);
    if obstacles.is_empty() {
        return error;
    }
    error.hint(obstacles.join("\n  hint: "))
}

/// Platform properties of Actions of builds on this machine, without that of the root file system: workers must have the
/// same platform.
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
