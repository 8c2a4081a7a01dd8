//! `bitzel serve`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bitzel_cas::access::{AccessConfiguration, ServerAccess};
use bitzel_cas::endpoint::ClientCredentials;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::admin::AdminListener;
use crate::arguments::ServeArguments;
use crate::command_error::CommandError;
use crate::connection::processors;
use crate::directories::Directories;
use crate::server::{self, Listener, ServerConfig};
use crate::worker::Work;
use crate::{embedded, interrupt};

/// Serves until interrupted.
pub(crate) async fn run(
    directories: &Directories,
    arguments: ServeArguments,
) -> Result<ExitCode, CommandError> {
    let access = access(&arguments).await?;
    let scheme = if access.tls.is_some() { "grpcs" } else { "grpc" };
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
        remote_cache: None,
    };
    // The worker of this process needs no credentials: its socket lies where only this user can enter.
    let socket = tempfile::Builder::new().prefix("bitzel-").tempdir()?;
    let private = Listener::Unix(UnixListener::bind(socket.path().join("socket"))?);
    let server_shutdown = CancellationToken::new();
    let mut server = tokio::spawn(server::run(
        config,
        vec![Listener::Tcp(listener, access), private],
        admin,
        server_shutdown.clone(),
    ));
    let worker_shutdown = CancellationToken::new();
    let slots = arguments.jobs.unwrap_or_else(processors);
    let work = Work {
        cache_directory: directories.worker(),
        slots,
        drain_timeout: Duration::ZERO,
        credentials: ClientCredentials::default(),
    };
    let mut worker = tokio::spawn(work.run(embedded::endpoint(&socket), worker_shutdown.clone()));
    writeln!(io::stdout(), "bitzel serves on {scheme}://{address}")?;
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

/// Who gets in. Without rules everybody does, which is right for the users of one machine and for nobody else.
async fn access(arguments: &ServeArguments) -> Result<ServerAccess, CommandError> {
    let Some(path) = &arguments.access else {
        if arguments.listen.ip().is_loopback() || arguments.allow_anonymous {
            return Ok(ServerAccess::open());
        }
        return Err(CommandError::new(format!(
            "without rules, everybody who reaches {} could replace what others build with",
            arguments.listen
        ))
        .hint(
            "say who may do what with --access FILE (docs/access.md has examples), or let everybody do everything \
             with --allow-anonymous",
        ));
    };
    let in_file = |error: CommandError| error.context(format!("{} cannot be used", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| in_file(error.into()))?;
    let configuration: AccessConfiguration = toml::from_str(&text).map_err(|error| in_file(error.into()))?;
    let encrypted = configuration.tls.is_some();
    if !encrypted && !arguments.listen.ip().is_loopback() {
        tracing::warn!("there is no [tls]: tokens, passwords and data can be read and changed on the way");
    }
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    configuration
        .open(base)
        .await
        .map_err(|error| in_file(error.into()))
}
