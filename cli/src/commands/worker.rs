//! `bitzel worker`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use bitzel_worker::ServerConnection;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminListener;
use crate::arguments::WorkerArguments;
use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::interrupt;
use crate::root_user;
use crate::worker::LocalWorker;

/// Time that running Actions have after the worker was asked to end: more than most tasks need.
const DRAIN_TIMEOUT: Duration = Duration::from_hours(1);

/// Runs Actions until interrupted, then waits for those that run.
pub(crate) async fn run(
    directories: &Directories,
    arguments: WorkerArguments,
) -> Result<ExitCode, CommandError> {
    root_user::refuse(arguments.allow_root)?;
    let slots = arguments.jobs.unwrap_or_else(processors).max(1);
    let shutdown = CancellationToken::new();
    if let Some(address) = arguments.admin {
        let admin = AdminListener::bind(address).await?;
        writeln!(io::stdout(), "metrics are on http://{}/metrics", admin.address()?)?;
        tokio::spawn(admin.serve(vec![], shutdown.clone()));
    }
    let worker = LocalWorker {
        cache_directory: directories.worker(),
        scratch_directory: directories.scratch(),
        slots,
        drain_timeout: DRAIN_TIMEOUT,
        bounds: arguments.bounds.bounds(None),
    };
    let server = ServerConnection::remote(&arguments.server, &arguments.credentials.credentials()?);
    let work = worker.run(Some(server), shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended.map(|()| ExitCode::SUCCESS),
        () = interrupt::interrupted() => shutdown.cancel(),
    }
    work.await?;
    Ok(ExitCode::SUCCESS)
}
