//! The policies of the Execution service.

use std::time::Duration;

/// Limits and waiting times. The defaults suit one machine and a farm alike.
#[derive(Debug, Clone)]
pub struct ExecutionConfig {
    /// How many workers may be lost with an Action before its clients get `UNAVAILABLE`: an Action that kills its
    /// worker must not go round the farm for ever. At least 1.
    pub maximum_attempts: usize,
    /// How long an Action waits while no registered worker could run it, busy or not. After that its clients get
    /// `FAILED_PRECONDITION` with the properties. Waiting for a busy worker is not limited.
    pub no_worker_timeout: Duration,
    /// How long an Action whose last client has gone goes on, so that `WaitExecution` or another `Execute` can
    /// attach again. After that it is cancelled: an interrupted build must leave no processes.
    pub abandoned_grace: Duration,
    /// How long `WaitExecution` finds a completed operation.
    pub completed_retention: Duration,
    /// How many completed operations are kept at most.
    pub completed_limit: usize,
    /// How many Actions may wait for a worker. More are refused with `RESOURCE_EXHAUSTED`.
    pub queue_limit: usize,
    /// The longest `Action.timeout` that is accepted; a longer one MUST be rejected (`remote_execution.proto`,
    /// `Action.timeout`).
    pub maximum_timeout: Duration,
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            maximum_attempts: 3,
            no_worker_timeout: Duration::from_mins(2),
            abandoned_grace: Duration::from_secs(10),
            completed_retention: Duration::from_mins(5),
            completed_limit: 4096,
            queue_limit: 200_000,
            maximum_timeout: Duration::from_hours(24),
        }
    }
}
