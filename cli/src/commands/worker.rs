//! `bitzel worker`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use bitzel_worker::{ObservedActionSource, ServerConnection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminListener;
use crate::arguments::WorkerArguments;
use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::interrupt;
use crate::readiness::Readiness;
use crate::root_user;
use crate::worker::LocalWorker;

/// Runs Actions until interrupted, then waits for those that run.
pub(crate) async fn run(
    directories: &Directories,
    arguments: WorkerArguments,
) -> Result<ExitCode, CommandError> {
    root_user::refuse(arguments.allow_root)?;
    let slots = arguments.jobs.unwrap_or_else(processors).max(1);
    let worker = LocalWorker {
        cache_directory: directories.worker(),
        scratch_directory: directories.scratch(),
        file_cache_size: Some(arguments.file_cache_size),
        prefetch_size: arguments.prefetch_size,
        max_layer_entries: Some(arguments.max_layer_entries),
        properties: arguments.properties,
        slots,
        name: arguments.name,
        pool: arguments.pool,
        root_identity: arguments.root_identity,
        drain_timeout: arguments.drain_timeout,
        bounds: arguments.bounds.bounds(None),
    };
    if arguments.check {
        let network = worker.check().await?;
        writeln!(io::stdout(), "this machine can run sandboxes\n{network}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let shutdown = CancellationToken::new();
    let endpoint = arguments.server.unwrap_or_default();
    let mut server = ServerConnection::remote(&endpoint, &arguments.credentials.credentials()?);
    if let Some(address) = arguments.admin {
        let admin = AdminListener::bind(address).await?;
        writeln!(io::stdout(), "metrics are on http://{}/metrics", admin.address()?)?;
        let (sender, connected) = watch::channel(false);
        server.actions = Arc::new(ObservedActionSource::new(server.actions, sender));
        let readiness = Readiness::until(shutdown.clone()).with_connection(connected);
        tokio::spawn(admin.serve(vec![], readiness, Router::new()));
    }
    let work = worker.run(Some(server), shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended.map(|()| ExitCode::SUCCESS),
        () = interrupt::interrupted() => shutdown.cancel(),
    }
    work.await?;
    Ok(ExitCode::SUCCESS)
}
