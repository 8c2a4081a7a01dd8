//! gRPC services of a server in a group: they serve the call if this server leads, and forward it otherwise.

mod builds;
mod execution;
mod farm;
mod scaler;
mod worker_queue;

pub use builds::GroupBuildsService;
pub use execution::GroupExecutionService;
pub use farm::GroupFarmService;
pub use scaler::{ForwardedScalerService, GroupScalerService};
pub use worker_queue::GroupWorkerQueueService;
