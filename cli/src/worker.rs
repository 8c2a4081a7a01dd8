//! A worker on this machine.

use std::path::PathBuf;

use bitzel_worker::worker_loop;
use tokio_util::sync::CancellationToken;

use crate::command_error::CommandError;
use crate::{SANDBOX_LAUNCH, platform};

/// Runs up to `slots` Actions at the same time for the server at `endpoint`, until `shutdown`. Without slots it only
/// waits for that.
pub(crate) async fn work(
    cache_directory: PathBuf,
    endpoint: String,
    slots: usize,
    shutdown: CancellationToken,
) -> Result<(), CommandError> {
    if slots == 0 {
        shutdown.cancelled().await;
        return Ok(());
    }
    unimplemented!()
}
