//! `bitzel serve`.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::arguments::ServeArguments;
use crate::command_error::CommandError;
use crate::commands::worker::{run_worker, slots};
use crate::directories::Directories;
use crate::interrupt;
use crate::server::{self, Listener, ServerConfig};

/// Serves until interrupted.
pub(crate) async fn run(directories: &Directories, arguments: ServeArguments) -> Result<ExitCode, CommandError> {
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        CommandError::from(error).hint(format!("is another server listening on {}?", arguments.listen))
    })?;
    // The port may have been chosen by the system.
    let address = listener.local_addr()?;
    let config = ServerConfig { directory: directories.server(), store_size: arguments.store_size << 30 };
    let shutdown = CancellationToken::new();
    let mut server = tokio::spawn(server::run(config, Listener::Tcp(listener), shutdown.clone()));
    writeln!(std::io::stdout(), "bitzel serves on grpc://{address}")?;
    let work = async {
        match slots(arguments.jobs) {
            0 => std::future::pending().await,
            slots => {
                let end = shutdown.child_token();
                let interrupted = interrupt::interrupted();
                run_worker(directories, format!("http://{address}"), slots, end, interrupted).await
            }
        }
    };
    let outcome = tokio::select! {
        ended = &mut server => return ended?.map(|()| ExitCode::SUCCESS),
        outcome = work => outcome,
        () = interrupt::interrupted() => Ok(()),
    };
    shutdown.cancel();
    server.await??;
    outcome.map(|()| ExitCode::SUCCESS)
}
