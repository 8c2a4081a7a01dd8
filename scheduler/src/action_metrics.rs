//! Metrics of Actions and of the operation queue. `docs/operations.md` lists them.

use std::sync::Arc;

use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::{ExecuteResponse, ExecutedActionMetadata};
use bitzel_rpc::telemetry::execution_outcome;
use metrics::{counter, gauge, histogram};

use super::dispatcher::Dispatcher;
use super::operation_queue::Occupancy;

const ACTIONS_METRIC: &str = "bitzel_actions_total";

/// Counts an Action whose result came from the action cache.
pub(super) fn cached() {
    counter!(ACTIONS_METRIC, "outcome" => "cached").increment(1);
}

/// Counts an Action that a worker could not run and that is queued again.
pub(super) fn retried() {
    counter!(ACTIONS_METRIC, "outcome" => "retried").increment(1);
}

/// Counts an Action with a worker's response, and records the times of its stages.
pub(super) fn answered(response: &ExecuteResponse) {
    counter!(ACTIONS_METRIC, "outcome" => execution_outcome(response)).increment(1);
    let metadata = response
        .result
        .as_ref()
        .and_then(|result| result.execution_metadata.as_ref());
    if let Some(metadata) = metadata {
        for (stage, from, to) in stages(metadata) {
            if let (Some(from), Some(to)) = (from, to) {
                histogram!("bitzel_action_stage_seconds", "stage" => stage)
                    .record(seconds(to) - seconds(from));
            }
        }
    }
}

type StageTime<'a> = Option<&'a Timestamp>;

/// Stages of an Action with their start and end (`remote_execution.proto`, `ExecutedActionMetadata`).
fn stages(metadata: &ExecutedActionMetadata) -> [(&'static str, StageTime<'_>, StageTime<'_>); 4] {
    [
        (
            "queued",
            metadata.queued_timestamp.as_ref(),
            metadata.worker_start_timestamp.as_ref(),
        ),
        (
            "input_fetch",
            metadata.input_fetch_start_timestamp.as_ref(),
            metadata.input_fetch_completed_timestamp.as_ref(),
        ),
        (
            "execution",
            metadata.execution_start_timestamp.as_ref(),
            metadata.execution_completed_timestamp.as_ref(),
        ),
        (
            "output_upload",
            metadata.output_upload_start_timestamp.as_ref(),
            metadata.output_upload_completed_timestamp.as_ref(),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "microseconds are left")]
fn seconds(time: &Timestamp) -> f64 {
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

/// Gauges of the operation queue, set when they are read.
#[derive(Clone)]
pub struct QueueGauges {
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl QueueGauges {
    /// Sets the gauges to the present values.
    pub fn publish(&self) {
        set_gauges(&self.dispatcher.occupancy());
    }

    /// Sets the gauges to those of a queue without Actions and workers.
    pub(super) fn publish_empty() {
        set_gauges(&Occupancy::default());
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn set_gauges(occupancy: &Occupancy) {
    gauge!("bitzel_queue_waiting_actions").set(occupancy.waiting as f64);
    gauge!("bitzel_workers").set(occupancy.workers as f64);
    gauge!("bitzel_worker_slots").set(occupancy.slots as f64);
    gauge!("bitzel_worker_slots_used").set(occupancy.slots_used as f64);
}
