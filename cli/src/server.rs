//! A server composed of the cache, the scheduler and the admin endpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bitzel_cas_server::{CacheServer, Extension, Gauges, Listener, ServerConfig};
use bitzel_scheduler::{
    DiskJournal, ExecutionConfig, ExecutionServer, GroupReadiness, GroupSettings, Journal, MemoryJournal,
    SchedulerGroup, SystemClock,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;

use crate::admin::AdminListener;
use crate::command_error::CommandError;
use crate::local_action_source::LocalActionSource;
use crate::local_blob_stores::LocalBlobStores;
use crate::queue_journal::QueueJournal;
use crate::readiness::Readiness;

/// Execution by a server.
pub(crate) struct Execution {
    /// Policies of the operation queue.
    pub(crate) policies: ExecutionConfig,
    /// Journal of the queue.
    pub(crate) journal: QueueJournal,
}

/// Scheduler of a server.
enum Scheduler {
    /// The only one of its farm.
    Alone(Box<ExecutionServer>),
    /// One of several that share a journal.
    Member(Box<SchedulerGroup>),
}

impl Scheduler {
    async fn start(execution: Execution, cache: &CacheServer) -> Result<Self, CommandError> {
        let Execution { policies, journal } = execution;
        let (journal, recovered): (Arc<dyn Journal>, _) = match journal {
            QueueJournal::Memory => (Arc::new(MemoryJournal::default()), MemoryJournal::empty()),
            QueueJournal::Disk {
                path,
                commit_interval,
            } => {
                let journal = open_file(&path, commit_interval)?;
                let recovered = journal.recover().await?;
                (Arc::new(journal), recovered)
            }
            QueueJournal::Shared(shared) => {
                let settings = GroupSettings {
                    config: &shared.config,
                    base: &shared.base,
                    password: shared.password,
                    queue: shared.queue,
                    address: shared.address,
                    commit_interval: shared.commit_interval,
                    policies,
                    identities: shared.identities,
                };
                let group = SchedulerGroup::join(settings, cache.blobs(), cache.results())?;
                return Ok(Self::Member(Box::new(group)));
            }
        };
        Ok(Self::Alone(Box::new(ExecutionServer::with_journal(
            cache.blobs(),
            cache.results(),
            policies,
            Arc::new(SystemClock::default()),
            journal,
            recovered,
        ))))
    }

    fn services(self) -> SchedulerServices {
        match self {
            Self::Alone(server) => {
                let ExecutionServer {
                    execution,
                    worker_queue,
                    farm,
                    builds,
                    scaler,
                    gauges,
                    background,
                } = *server;
                SchedulerServices {
                    extension: Extension {
                        add_services: Box::new(|routes| {
                            routes
                                .add_service(execution.into_server())
                                .add_service(worker_queue.into_server())
                                .add_service(farm.into_server())
                                .add_service(builds.into_server())
                        }),
                        shut_down: Box::pin(background.shut_down()),
                    },
                    admin: Routes::new(scaler.into_server()).into_axum_router(),
                    gauges: Box::new(move || gauges.publish()),
                    group: None,
                }
            }
            Self::Member(group) => {
                let SchedulerGroup {
                    execution,
                    worker_queue,
                    farm,
                    builds,
                    scaler,
                    forwarded_scaler,
                    gauges,
                    readiness,
                    background,
                } = *group;
                SchedulerServices {
                    extension: Extension {
                        add_services: Box::new(|routes| {
                            routes
                                .add_service(execution.into_server())
                                .add_service(worker_queue.into_server())
                                .add_service(farm.into_server())
                                .add_service(builds.into_server())
                                .add_service(forwarded_scaler.into_server())
                        }),
                        shut_down: Box::pin(background.shut_down()),
                    },
                    admin: Routes::new(scaler.into_server()).into_axum_router(),
                    gauges: Box::new(move || gauges.publish()),
                    group: Some(readiness),
                }
            }
        }
    }
}

/// Services of a scheduler.
struct SchedulerServices {
    /// Services for clients, workers and people.
    extension: Extension,
    /// Services on the admin port.
    admin: Router,
    /// Gauges of the queue.
    gauges: Gauges,
    /// Readiness of a member of a group.
    group: Option<GroupReadiness>,
}

fn open_file(path: &Path, commit_interval: Duration) -> Result<DiskJournal, CommandError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    DiskJournal::open(path, commit_interval).map_err(|error| {
        CommandError::from(error)
            .context(format!("cannot open {}", path.display()))
            .hint(
                "without this file the server starts with an empty queue, and clients execute again what they wait for: \
                 move it away, or set execution.journal.medium to \"memory\"",
            )
    })
}

/// A cache, and with it a scheduler unless the server is a cache alone.
pub(crate) struct Server {
    cache: CacheServer,
    execution: Option<Scheduler>,
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
            Some(execution) => Some(Scheduler::start(execution, &cache).await?),
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
        // The schedulers of a group run no Actions themselves.
        let Scheduler::Alone(execution) = self.execution.as_ref()? else {
            return None;
        };
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
        let mut group = None;
        let extension = self.execution.map(|execution| {
            let SchedulerServices {
                extension,
                admin,
                gauges: queue,
                group: of_group,
            } = execution.services();
            group = of_group;
            gauges.push(queue);
            services = admin;
            extension
        });
        let readiness = Readiness::until(shutdown.clone());
        let readiness = match self.disk {
            Some(directory) => readiness.with_writable(directory),
            None => readiness,
        };
        let readiness = match group {
            Some(group) => readiness.with_leader(group),
            None => readiness,
        };
        let admin =
            admin.map(|admin| AbortOnDropHandle::new(tokio::spawn(admin.serve(gauges, readiness, services))));
        self.cache.run(listeners, extension, shutdown).await?;
        drop(admin);
        Ok(())
    }
}
