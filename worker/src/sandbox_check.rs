//! Check of this machine: can it make a sandbox, and if not, which of its settings stand in the way?

use std::path::Path;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;

use crate::config::ExecutorConfig;
use crate::error::Error;
use crate::sandbox::Sandbox;
use crate::worker_directories::WorkerDirectories;

mod obstacles;
mod probes;

use obstacles::Facts;

/// Opens the directories of a worker and runs `true` in a sandbox, as the start of a worker does. Returns a sentence about
/// the network of Actions.
///
/// [`Error::SandboxUnavailable`] names the step that failed; [`sandbox_obstacles`] has the settings behind it.
pub async fn check_sandbox(config: &ExecutorConfig) -> Result<&'static str, Error> {
    let (cache, scratch) = (config.cache_directory.clone(), config.scratch_directory.clone());
    let directories = run_blocking(move || WorkerDirectories::open(&cache, scratch.as_deref())).await?;
    let sandbox = Sandbox::open(
        Arc::clone(&directories),
        &config.host_directories,
        config.user_access.clone(),
        config.bounds.clone(),
    )
    .await?;
    Ok(sandbox.network())
}

/// Settings of this machine or container that may forbid sandboxes, each with its cure, as lines for people. Meant for
/// after a failure: some of them are harmless on machines where sandboxes work.
pub fn sandbox_obstacles(cache_directory: &Path) -> Vec<String> {
    Facts::gather(cache_directory).obstacles()
}
