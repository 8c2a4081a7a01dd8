//! `bitzel worker`.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::arguments::WorkerArguments;
use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::{interrupt, worker};

/// Works until interrupted, then finishes what it runs.
pub(crate) async fn run(
    directories: &Directories,
    arguments: WorkerArguments,
) -> Result<ExitCode, CommandError> {
    let slots = arguments.jobs.unwrap_or_else(processors).max(1);
    let shutdown = CancellationToken::new();
    let work = worker::work(directories.worker(), arguments.server, slots, shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended.map(|()| ExitCode::SUCCESS),
        () = interrupt::interrupted() => shutdown.cancel(),
    }
    work.await?;
    Ok(ExitCode::SUCCESS)
}
