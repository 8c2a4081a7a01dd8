//! What operators see of Actions and of the queue. `docs/operations.md` lists the metrics.

use std::sync::Arc;

use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::{ExecuteResponse, ExecutedActionMetadata};
use bitzel_rpc::telemetry::execution_outcome;
use metrics::{counter, gauge, histogram};

use super::dispatcher::Dispatcher;

const ACTIONS: &str = "bitzel_actions_total";

/// An Action was answered from the action cache.
pub(super) fn cached() {
    counter!(ACTIONS, "outcome" => "cached").increment(1);
}

/// A worker gave an Action back; it is queued again.
pub(super) fn retried() {
    counter!(ACTIONS, "outcome" => "retried").increment(1);
}

/// An Action has an answer from a worker.
pub(super) fn answered(response: &ExecuteResponse) {
    counter!(ACTIONS, "outcome" => execution_outcome(response)).increment(1);
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

type Moment<'a> = Option<&'a Timestamp>;

/// The parts of an Action's life (`remote_execution.proto`, `ExecutedActionMetadata`).
fn stages(metadata: &ExecutedActionMetadata) -> [(&'static str, Moment<'_>, Moment<'_>); 4] {
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
fn seconds(moment: &Timestamp) -> f64 {
    moment.seconds as f64 + f64::from(moment.nanos) / 1e9
}

/// Sets the gauges of the queue when somebody wants to read them.
#[derive(Clone)]
pub struct QueueGauges {
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl QueueGauges {
    /// Sets them to what is true now.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn publish(&self) {
        let occupancy = self.dispatcher.occupancy();
        gauge!("bitzel_queue_waiting_actions").set(occupancy.waiting as f64);
        gauge!("bitzel_workers").set(occupancy.workers as f64);
        gauge!("bitzel_worker_slots").set(occupancy.slots as f64);
        gauge!("bitzel_worker_slots_used").set(occupancy.slots_used as f64);
    }
}
