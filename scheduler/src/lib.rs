//! Server side of the Remote Execution API's Execution service.
//!
//! * [`operation_queue`] decides which worker runs which Action: a state machine without I/O.
//! * The dispatcher carries out its decisions, with the time from a [`clock`].
//! * [`execution_service`] answers clients, [`worker_queue_service`] answers workers.
//!
//! ```text
//!  client ── Execute ──▶ execution_service ──▶ dispatcher ◀── worker_queue_service ◀── Work ── worker
//!                          │ action cache hit?     │                │
//!                          ▼                       ▼                ▼
//!                      ActionCache          OperationQueue    result_recorder ──▶ ActionCache
//! ```

mod action_metrics;
mod action_reader;
mod build_executions;
pub mod clock;
pub mod deletion_costs;
mod dispatcher;
pub mod error;
pub mod execution_config;
pub mod execution_service;
pub mod farm_service;
mod grpc_status;
mod input_leases;
pub mod journal;
pub mod leadership;
mod measured_use;
mod operation_message;
pub mod operation_queue;
pub mod platform;
mod request_policy;
pub mod resources;
mod result_recorder;
pub mod scaler_service;
pub mod worker_identity;
pub mod worker_queue_service;

use std::sync::Arc;
use std::time::Duration;

use bitzel_builds::{Builds, BuildsParts, BuildsService};
use bitzel_cas::{ActionCache, InstanceBlobStores};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use action_metrics::QueueGauges;
pub use clock::{Clock, SystemClock};
pub use error::ExecutionError;
pub use execution_config::{ExecutionConfig, PlatformMapping};
pub use execution_service::ExecutionService;
pub use farm_service::FarmService;
pub use journal::{
    DiskJournal, Journal, JournalConfig, JournalError, JournalMedium, MemoryJournal, PostgresqlConfig,
    PostgresqlConnector, PostgresqlJournal, Recovered,
};
pub use leadership::{
    ForwardedIdentities, GroupBuildsService, GroupGauges, GroupReadiness, GroupSettings, SchedulerGroup,
};
pub use scaler_service::ScalerService;
pub use worker_queue_service::WorkerQueueService;

use action_reader::ActionReader;
use build_executions::LocalExecutions;
use dispatcher::Dispatcher;
use input_leases::TenantInputLeases;
use journal::BuildRecords;
use request_policy::RequestPolicy;

/// Maximum time that a shutdown waits for the journal.
const MAX_FLUSH_TIME: Duration = Duration::from_secs(10);

/// The services, which share one operation queue, with their gauges and background tasks.
pub struct ExecutionServer {
    /// Service for clients.
    pub execution: ExecutionService,
    /// Service for workers.
    pub worker_queue: WorkerQueueService,
    /// Service for people.
    pub farm: FarmService,
    /// Service for builds that this server walks.
    pub builds: BuildsService,
    /// External scaler for KEDA.
    pub scaler: ScalerService,
    /// Gauges of the farm.
    pub gauges: QueueGauges,
    /// Background tasks of both services.
    pub background: ExecutionTasks,
}

impl ExecutionServer {
    /// Starts the background tasks, and creates the services. Must be called within a tokio runtime.
    ///
    /// The gRPC server of the services should set `TCP_NODELAY`, and HTTP/2 keep-alive: only keep-alive detects a worker
    /// whose machine is lost without closing its connection.
    ///
    /// The journal of the queue is in memory; [`Self::with_journal`] takes another one.
    pub fn new(
        blob_stores: impl Into<InstanceBlobStores>,
        action_cache: Arc<dyn ActionCache>,
        config: ExecutionConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::with_journal(
            blob_stores,
            action_cache,
            config,
            clock,
            Arc::new(MemoryJournal::default()),
            MemoryJournal::empty(),
        )
    }

    /// As [`Self::new`], with a journal and what it recovered.
    pub fn with_journal(
        blob_stores: impl Into<InstanceBlobStores>,
        action_cache: Arc<dyn ActionCache>,
        config: ExecutionConfig,
        clock: Arc<dyn Clock>,
        journal: Arc<dyn Journal>,
        mut recovered: Recovered,
    ) -> Self {
        let tasks = TaskTracker::new();
        let shutdown = CancellationToken::new();
        let blob_stores = blob_stores.into();
        let action_reader = Arc::new(ActionReader {
            input_leases: TenantInputLeases::new(blob_stores.clone()),
            blob_stores: blob_stores.clone(),
            max_action_timeout: config.max_action_timeout,
            platform_mappings: config.platform_mappings.clone(),
            resource_config: config.resources.clone(),
        });
        let request_policy = Arc::new(RequestPolicy::new(&config));
        let builds_config = config.builds.clone();
        let restored_builds = std::mem::take(&mut recovered.builds);
        let dispatcher = Dispatcher::new(config, clock, journal.clone(), recovered);
        tasks.spawn(lease_restored_inputs(
            action_reader.clone(),
            dispatcher.clone(),
            shutdown.clone(),
        ));
        tasks.spawn(dispatcher.clone().keep_time(shutdown.clone()));
        let execution = ExecutionService {
            action_reader,
            action_cache: action_cache.clone(),
            request_policy,
            dispatcher: dispatcher.clone(),
            shutdown: shutdown.clone(),
        };
        let parts = BuildsParts {
            config: builds_config,
            blob_stores,
            action_cache: action_cache.clone(),
            executions: Arc::new(LocalExecutions(execution.clone())),
            journal: Arc::new(BuildRecords(journal.clone())),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let builds = BuildsService::new(Builds::start(parts, restored_builds));
        Self {
            execution,
            farm: FarmService {
                dispatcher: dispatcher.clone(),
                builds: builds.clone(),
            },
            builds,
            scaler: ScalerService {
                dispatcher: dispatcher.clone(),
            },
            gauges: QueueGauges {
                dispatcher: dispatcher.clone(),
            },
            worker_queue: WorkerQueueService {
                dispatcher,
                action_cache,
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
            },
            background: ExecutionTasks {
                tasks,
                shutdown,
                journal,
            },
        }
    }
}

/// Leases the inputs of operations from the journal. One whose inputs are gone stays in the queue: its worker reports what
/// is missing, and the client uploads it again. With tenants it fails: a worker may have the blobs of another tenant.
async fn lease_restored_inputs(
    reader: Arc<ActionReader>,
    dispatcher: Arc<Dispatcher>,
    shutdown: CancellationToken,
) {
    for (operation, key) in dispatcher.unfinished() {
        let lease = async {
            let action = reader.read_action(&key).await?;
            reader.check(&key, &action).await
        };
        let leased = tokio::select! {
            leased = lease => leased,
            () = shutdown.cancelled() => return,
        };
        match leased {
            Ok(summary) => dispatcher.hold_inputs(operation, summary.inputs),
            Err(error @ ExecutionError::MissingBlobs(_))
                if reader.blob_stores.tenant(&key.instance).is_some() =>
            {
                tracing::warn!(action = %key.digest, %error, "a restored Action is refused");
                dispatcher.refuse(operation, error);
            }
            Err(error) => {
                tracing::warn!(action = %key.digest, %error, "the inputs of a restored Action cannot be leased");
            }
        }
    }
}

/// Background tasks of an [`ExecutionServer`].
#[must_use = "the tasks run until they are shut down"]
pub struct ExecutionTasks {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    journal: Arc<dyn Journal>,
}

impl ExecutionTasks {
    /// Ends the streams of clients and workers, and waits for nothing: another server leads, and has their operations.
    pub(crate) fn abandon(self) {
        self.shutdown.cancel();
        self.tasks.close();
    }

    /// Ends the streams of clients (with `UNAVAILABLE`) and workers, and waits until the results that workers have
    /// delivered are in the action cache, and the journal is written. It must be called before the wait for the graceful end of the gRPC server, which
    /// waits for the streams.
    pub async fn shut_down(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if !journal::flush(&self.journal, MAX_FLUSH_TIME).await {
            tracing::error!("the last changes of the queue could not be written to its journal");
        }
    }
}

#[cfg(test)]
mod tests;
