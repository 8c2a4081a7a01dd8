//! A server with a worker in the process of a build, which uses the same protocol as with a remote server.

use std::time::Duration;

use bitzel_cas_server::services::Chunking;
use bitzel_cas_server::{Listener, ServerConfig, SharedCache, StoreLayout};
use bitzel_scheduler::ExecutionConfig;
use bitzel_worker::{Bounds, RootIdentity};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::queue_journal::QueueJournal;
use crate::root_user;
use crate::server::{Execution, Server};
use crate::worker::LocalWorker;

type Running = JoinHandle<Result<(), CommandError>>;

/// Server and worker in this process.
pub(crate) struct Embedded {
    /// Directory of the socket. Only this user can enter it, which is enough protection.
    socket: TempDir,
    server: Running,
    server_shutdown: CancellationToken,
    worker: Running,
    worker_shutdown: CancellationToken,
}

impl Embedded {
    /// Starts both, or only the server if `slots` is 0.
    pub(crate) async fn start(
        directories: &Directories,
        store_size: u64,
        slots: usize,
        root_identity: Option<RootIdentity>,
        bounds: Bounds,
        shared_cache: Option<SharedCache>,
    ) -> Result<Self, CommandError> {
        let socket = tempfile::Builder::new().prefix("bitzel-").tempdir()?;
        let listener = Listener::Unix(UnixListener::bind(socket.path().join("socket"))?);
        let server_shutdown = CancellationToken::new();
        let config = ServerConfig {
            stores: StoreLayout::in_directory(&directories.server(), store_size),
            // A sync would delay the end of every build.
            syncs: false,
            chunking: Chunking::default(),
            shared_cache,
            tenants: None,
        };
        // The queue ends with the build.
        let execution = Execution {
            policies: ExecutionConfig::default(),
            journal: QueueJournal::Memory,
        };
        let server = Server::open(config, Some(execution)).await?;
        let for_worker = server.for_worker();
        let server = tokio::spawn(server.run(vec![listener], None, server_shutdown.clone()));
        let worker_shutdown = CancellationToken::new();
        if slots > 0 {
            root_user::log();
        }
        // After the build, nobody needs the results of Actions that still run.
        let worker = LocalWorker {
            name: None,
            pool: String::new(),
            cache_directory: directories.worker(),
            scratch_directory: directories.scratch(),
            file_cache_size: None,
            // The store is in this process.
            prefetch_size: 0,
            max_layer_entries: None,
            properties: vec![],
            slots,
            root_identity,
            drain_timeout: Duration::ZERO,
            bounds,
        };
        let worker = tokio::spawn(worker.run(for_worker, worker_shutdown.clone()));
        Ok(Self {
            socket,
            server,
            server_shutdown,
            worker,
            worker_shutdown,
        })
    }

    /// Address for clients.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.socket.path().join("socket").display())
    }

    /// Waits until the server or the worker ends by itself, which is a failure, and returns the cause.
    pub(crate) async fn failure(&mut self) -> CommandError {
        let ended = tokio::select! {
            ended = &mut self.server => ended,
            ended = &mut self.worker => ended,
        };
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => CommandError::new("the embedded server ended unexpectedly"),
            Err(error) => error.into(),
        }
    }

    /// Stops the worker, which kills running Actions and removes their directories, then the server.
    pub(crate) async fn stop(self) -> Result<(), CommandError> {
        self.worker_shutdown.cancel();
        let worker = if self.worker.is_finished() {
            Ok(())
        } else {
            self.worker.await?
        };
        self.server_shutdown.cancel();
        let server = if self.server.is_finished() {
            Ok(())
        } else {
            self.server.await?
        };
        worker.and(server)
    }
}
