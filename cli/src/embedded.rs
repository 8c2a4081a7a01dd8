//! The farm in one process: server and worker beside the build, which speaks the same protocol as with any other.

use std::time::Duration;

use bitzel_cas_server::services::Chunking;
use bitzel_cas_server::{Listener, ServerConfig, SharedCache, StoreLayout};
use bitzel_scheduler::ExecutionConfig;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::command_error::CommandError;
use crate::directories::Directories;
use crate::server::Server;
use crate::worker::Work;

type Running = JoinHandle<Result<(), CommandError>>;

/// A server with one worker in this process.
pub(crate) struct Embedded {
    /// Its socket lies in a directory that only this user can enter, which is all the protection it needs.
    socket: TempDir,
    server: Running,
    server_shutdown: CancellationToken,
    worker: Running,
    worker_shutdown: CancellationToken,
}

impl Embedded {
    /// Starts both; with no slots the server alone.
    pub(crate) async fn start(
        directories: &Directories,
        store_size: u64,
        slots: usize,
        shared_cache: Option<SharedCache>,
    ) -> Result<Self, CommandError> {
        let socket = tempfile::Builder::new().prefix("bitzel-").tempdir()?;
        let listener = Listener::Unix(UnixListener::bind(socket.path().join("socket"))?);
        let server_shutdown = CancellationToken::new();
        let config = ServerConfig {
            stores: StoreLayout::in_directory(&directories.server(), store_size),
            // Nobody waits for a disk at the end of every build.
            syncs: false,
            chunking: Chunking::default(),
            shared_cache,
        };
        let server = Server::open(config, Some(ExecutionConfig::default())).await?;
        let for_worker = server.for_worker();
        let server = tokio::spawn(server.run(vec![listener], None, server_shutdown.clone()));
        let worker_shutdown = CancellationToken::new();
        // Nobody waits for what an embedded worker still runs when the build is over.
        let work = Work {
            cache_directory: directories.worker(),
            scratch_directory: directories.scratch(),
            slots,
            drain_timeout: Duration::ZERO,
        };
        let worker = tokio::spawn(work.run(for_worker, worker_shutdown.clone()));
        Ok(Self {
            socket,
            server,
            server_shutdown,
            worker,
            worker_shutdown,
        })
    }

    /// Where clients connect.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.socket.path().join("socket").display())
    }

    /// Why the server or the worker ended by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> CommandError {
        let ended = tokio::select! {
            ended = &mut self.server => ended,
            ended = &mut self.worker => ended,
        };
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => CommandError::new("the embedded server ended"),
            Err(error) => error.into(),
        }
    }

    /// Stops the worker, which kills what it runs and removes its temporary trees, then the server.
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
