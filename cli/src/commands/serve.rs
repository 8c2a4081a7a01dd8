//! `bitzel serve`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminListener;
use crate::arguments::ServeArguments;
use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::interrupt;
use crate::server::{self, Listener, ServerConfig};
use crate::worker::Work;

/// Serves until interrupted.
pub(crate) async fn run(
    directories: &Directories,
    arguments: ServeArguments,
) -> Result<ExitCode, CommandError> {
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        CommandError::from(error).hint(format!("is another server listening on {}?", arguments.listen))
    })?;
    // With port 0 the system chose one.
    let address = listener.local_addr()?;
    let admin = match arguments.admin {
        Some(address) => Some(AdminListener::bind(address).await?),
        None => None,
    };
    let admin_address = admin.as_ref().map(AdminListener::address).transpose()?;
    let config = ServerConfig {
        directory: directories.server(),
        store_size: arguments.store_size << 30,
    };
    let server_shutdown = CancellationToken::new();
    let mut server = tokio::spawn(server::run(
        config,
        Listener::Tcp(listener),
        admin,
        server_shutdown.clone(),
    ));
    let worker_shutdown = CancellationToken::new();
    let slots = arguments.jobs.unwrap_or_else(processors);
    let endpoint = format!("http://{address}");
    let work = Work {
        cache_directory: directories.worker(),
        slots,
        drain_timeout: Duration::ZERO,
    };
    let mut worker = tokio::spawn(work.run(endpoint, worker_shutdown.clone()));
    writeln!(io::stdout(), "bitzel serves on grpc://{address}")?;
    if let Some(address) = admin_address {
        writeln!(io::stdout(), "metrics are on http://{address}/metrics")?;
    }
    tokio::select! {
        ended = &mut server => {
            worker_shutdown.cancel();
            ended??;
            return Ok(ExitCode::SUCCESS);
        }
        ended = &mut worker => {
            server_shutdown.cancel();
            server.await??;
            ended??;
            return Ok(ExitCode::SUCCESS);
        }
        () = interrupt::interrupted() => {}
    }
    // The worker first: what it has finished is recorded by the server.
    worker_shutdown.cancel();
    let worked = worker.await?;
    server_shutdown.cancel();
    server.await??;
    worked?;
    Ok(ExitCode::SUCCESS)
}
