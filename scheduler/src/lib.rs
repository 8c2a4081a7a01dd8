//! The server side of the Remote Execution API's Execution service.
//!
//! * [`operation_queue`] decides: a state machine without I/O.
//! * The dispatcher carries its decisions out, with the time from a [`clock`].
//! * [`execution_service`] speaks with clients, [`worker_queue_service`] with workers.
//!
//! ```text
//!  client ── Execute ──▶ execution_service ──▶ dispatcher ◀── worker_queue_service ◀── Work ── worker
//!                          │ action cache hit?     │                │
//!                          ▼                       ▼                ▼
//!                      ActionCache          OperationQueue    result_recorder ──▶ ActionCache
//! ```

mod action_metrics;
mod action_reader;
pub mod clock;
mod dispatcher;
pub mod error;
pub mod execution_config;
pub mod execution_service;
mod grpc_status;
mod input_leases;
mod operation_message;
pub mod operation_queue;
pub mod platform;
mod result_recorder;
pub mod worker_queue_service;

use std::sync::Arc;

use bitzel_cas::{ActionCache, BlobStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use action_metrics::QueueGauges;
pub use clock::{Clock, SystemClock};
pub use error::ExecutionError;
pub use execution_config::ExecutionConfig;
pub use execution_service::ExecutionService;
pub use worker_queue_service::WorkerQueueService;

use action_reader::ActionReader;
use dispatcher::Dispatcher;
use input_leases::InputLeases;

/// The two services, which share one operation queue, and what runs beside them.
pub struct ExecutionServer {
    /// For clients.
    pub execution: ExecutionService,
    /// For workers.
    pub worker_queue: WorkerQueueService,
    /// For metrics: how busy the farm is.
    pub gauges: QueueGauges,
    /// Ends both.
    pub background: ExecutionTasks,
}

impl ExecutionServer {
    /// Starts the server side. Has to be called within a tokio runtime.
    ///
    /// The gRPC server that takes the services should set `TCP_NODELAY`, and HTTP/2 keep-alive: a worker whose
    /// machine vanishes without closing its connection is noticed by that alone.
    pub fn new(
        blob_store: Arc<dyn BlobStore>,
        action_cache: Arc<dyn ActionCache>,
        config: ExecutionConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let tasks = TaskTracker::new();
        let shutdown = CancellationToken::new();
        let action_reader = Arc::new(ActionReader {
            input_leases: InputLeases::new(blob_store.clone()),
            blob_store,
            maximum_timeout: config.maximum_timeout,
        });
        let dispatcher = Dispatcher::new(config, clock);
        tasks.spawn(dispatcher.clone().keep_time(shutdown.clone()));
        Self {
            execution: ExecutionService {
                action_reader,
                action_cache: action_cache.clone(),
                dispatcher: dispatcher.clone(),
                shutdown: shutdown.clone(),
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
            background: ExecutionTasks { tasks, shutdown },
        }
    }
}

/// The tasks of an [`ExecutionServer`].
#[must_use = "the tasks run until they are shut down"]
pub struct ExecutionTasks {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl ExecutionTasks {
    /// Ends the streams of clients (with `UNAVAILABLE`) and workers, and waits until the results that workers
    /// handed over are in the action cache. Call it before waiting for the gRPC server to end gracefully: that
    /// waits for the streams.
    pub async fn shut_down(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
