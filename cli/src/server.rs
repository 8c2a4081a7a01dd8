//! A server composed of the cache, the scheduler and the admin endpoint.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bitzel_cas_server::{CacheServer, Extension, Listener, ServerConfig};
use bitzel_scheduler::{
    DiskJournal, ExecutionConfig, ExecutionServer, Journal, MemoryJournal, Recovered, SystemClock,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;

use crate::admin::AdminListener;
use crate::command_error::CommandError;
use crate::local_action_source::LocalActionSource;
use crate::local_blob_stores::LocalBlobStores;
use crate::readiness::Readiness;

/// Execution by a server.
pub(crate) struct Execution {
    /// Policies of the operation queue.
    pub(crate) policies: ExecutionConfig,
    /// Journal of the queue.
    pub(crate) journal: QueueJournal,
}

/// Journal of the operation queue.
pub(crate) enum QueueJournal {
    /// None: the queue ends with the process.
    Memory,
    /// A file.
    Disk {
        /// The file. Its directory is created if it does not exist.
        path: PathBuf,
        /// Time for which records gather before they are written.
        commit_interval: Duration,
    },
}

fn open_journal(journal: QueueJournal) -> Result<(Arc<dyn Journal>, Recovered), CommandError> {
    match journal {
        QueueJournal::Memory => {
            let journal = MemoryJournal::default();
            let recovered = journal.recover();
            Ok((Arc::new(journal), recovered))
        }
        QueueJournal::Disk {
            path,
            commit_interval,
        } => {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let opened = DiskJournal::open(&path, commit_interval).map_err(|error| {
                CommandError::from(error)
                    .context(format!("cannot open {}", path.display()))
                    .hint(
                        "without this file the server starts with an empty queue, and clients execute again what they \
                         wait for: move it away, or set execution.journal.medium to \"memory\"",
                    )
            });
            let (journal, recovered) = opened?;
            Ok((Arc::new(journal), recovered))
        }
    }
}

/// A cache, and with it a scheduler unless the server is a cache alone.
pub(crate) struct Server {
    cache: CacheServer,
    execution: Option<ExecutionServer>,
    /// Directory of the first store of blobs on this machine's disk.
    disk: Option<PathBuf>,
}

impl Server {
    /// Opens the stores. Without `execution`, the server is a cache.
    pub(crate) async fn open(
        config: ServerConfig,
        execution: Option<Execution>,
    ) -> Result<Self, CommandError> {
        let base = config.stores.base.clone();
        let disk = config.stores.blobs.first_disk();
        let disk = disk.map(|disk| base.join(disk.directory.get_ref()));
        let cache = CacheServer::open(config).await.map_err(|error| {
            CommandError::from(error).hint(format!(
                "one process at a time may use {}: build with --remote on a `bitzel serve`, or give --cache-dir",
                base.display()
            ))
        })?;
        let execution = match execution {
            Some(Execution { policies, journal }) => {
                let (journal, recovered) = open_journal(journal)?;
                Some(ExecutionServer::with_journal(
                    cache.blobs(),
                    cache.results(),
                    policies,
                    Arc::new(SystemClock::default()),
                    journal,
                    recovered,
                ))
            }
            None => None,
        };
        Ok(Self {
            cache,
            execution,
            disk,
        })
    }

    /// This server as a worker in this process reaches it: without protocol or credentials. `None` if it executes nothing.
    pub(crate) fn for_worker(&self) -> Option<bitzel_worker::ServerConnection> {
        let execution = self.execution.as_ref()?;
        Some(bitzel_worker::ServerConnection {
            actions: Arc::new(LocalActionSource(execution.worker_queue.clone())),
            blobs: Arc::new(LocalBlobStores(self.cache.blobs())),
        })
    }

    /// Serves until `shutdown`, then closes the stores. `admin` serves metrics and probes: the server is ready as long as
    /// the disks of its stores take writes.
    pub(crate) async fn run(
        self,
        listeners: Vec<Listener>,
        admin: Option<AdminListener>,
        shutdown: CancellationToken,
    ) -> Result<(), CommandError> {
        let mut gauges = vec![self.cache.gauges()];
        let mut services = Router::new();
        let extension = self.execution.map(|execution| {
            let ExecutionServer {
                execution,
                worker_queue,
                farm,
                scaler,
                gauges: queue,
                background,
            } = execution;
            gauges.push(Box::new(move || queue.publish()));
            services = Routes::new(scaler.into_server()).into_axum_router();
            Extension {
                add_services: Box::new(|routes| {
                    routes
                        .add_service(execution.into_server())
                        .add_service(worker_queue.into_server())
                        .add_service(farm.into_server())
                }),
                shut_down: Box::pin(background.shut_down()),
            }
        });
        let readiness = Readiness::until(shutdown.clone());
        let readiness = match self.disk {
            Some(directory) => readiness.with_writable(directory),
            None => readiness,
        };
        let admin =
            admin.map(|admin| AbortOnDropHandle::new(tokio::spawn(admin.serve(gauges, readiness, services))));
        self.cache.run(listeners, extension, shutdown).await?;
        drop(admin);
        Ok(())
    }
}
