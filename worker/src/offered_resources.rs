//! Resources that a worker offers to the scheduler.

use std::thread::available_parallelism;

use bitzel_proto::worker::WorkerResources;

use crate::bounds::machine_memory;
use crate::config::ExecutorConfig;

/// Reads the resources of this machine: most of its memory, or of that of the container, and its processors. With more slots
/// than processors, the operator wants that many Actions on them, so each slot counts as one.
/// `disk_bytes` is the space for changes of Actions. Other programs may take it later: then the worker hands back what does
/// not fit.
pub(crate) fn offered_resources(slots: u32, config: &ExecutorConfig, disk_bytes: u64) -> WorkerResources {
    let processors = available_parallelism().map_or(1, std::num::NonZero::get);
    let processors = u64::try_from(processors).unwrap_or(1).max(slots.into());
    WorkerResources {
        // The rest is for the system and the worker itself.
        memory_bytes: (machine_memory() / 10 * 9).max(config.bounds.memory_bytes),
        millicpus: processors.saturating_mul(1000),
        disk_bytes,
        action_memory_bytes: config.bounds.memory_bytes,
    }
}
