//! Decorator that counts the Actions of a worker.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ExecuteResponse;
use bitzel_rpc::telemetry::execution_outcome;
use metrics::{counter, gauge};

use crate::action_executor::{ActionExecutor, ActionRequest};

const RUNNING_GAUGE: &str = "bitzel_worker_actions_running";

/// Records metrics of the executor behind it, through the `metrics` facade:
///
/// - `bitzel_worker_actions_running`: Actions from the fetch of their inputs to the upload of their outputs;
/// - `bitzel_worker_actions_total`, by `outcome`: `succeeded`, `failed` (the exit code) or `error` (anything else, an
///   Action that was cancelled included).
///
/// The server measures the time of each stage, for all its workers (`bitzel_action_stage_seconds`).
pub struct MeteredActionExecutor {
    inner: Arc<dyn ActionExecutor>,
}

impl MeteredActionExecutor {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn ActionExecutor>) -> Self {
        // Set before the first Action, so that an idle worker has the metric, too.
        gauge!(RUNNING_GAUGE).set(0.0);
        Self { inner }
    }
}

/// Counts an Action as running while it lives, however the execution ends.
struct RunningGuard;

impl RunningGuard {
    fn start() -> Self {
        gauge!(RUNNING_GAUGE).increment(1.0);
        Self
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        gauge!(RUNNING_GAUGE).decrement(1.0);
    }
}

#[async_trait]
impl ActionExecutor for MeteredActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let running = RunningGuard::start();
        let response = self.inner.execute(request).await;
        drop(running);
        counter!("bitzel_worker_actions_total", "outcome" => execution_outcome(&response)).increment(1);
        response
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::google::rpc::Status;
    use bitzel_proto::reapi::ActionResult;
    use bitzel_proto::{DigestFunction, InstanceName};
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Executor that returns one fixed response.
    struct FixedResponse(ExecuteResponse);

    #[async_trait]
    impl ActionExecutor for FixedResponse {
        async fn execute(&self, _: ActionRequest) -> ExecuteResponse {
            self.0.clone()
        }
    }

    fn response(exit_code: i32, code: i32) -> ExecuteResponse {
        ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                ..ActionResult::default()
            }),
            status: Some(Status {
                code,
                ..Status::default()
            }),
            ..ExecuteResponse::default()
        }
    }

    #[test]
    fn counts_actions_by_outcome() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let work = async {
            for response in [response(0, 0), response(1, 0), response(1, 0), response(0, 9)] {
                let metered = MeteredActionExecutor::new(Arc::new(FixedResponse(response.clone())));
                let request = ActionRequest {
                    instance: InstanceName::default(),
                    action: DigestFunction::Sha256.digest(b"action"),
                    queued: None,
                    stages: None,
                    cancellation: CancellationToken::new(),
                };
                assert_eq!(metered.execute(request).await, response);
            }
        };
        metrics::with_local_recorder(&recorder, || runtime.block_on(work));
        let mut counted = vec![];
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            match value {
                DebugValue::Counter(count) => counted.push((labels.concat(), count)),
                DebugValue::Gauge(value) => assert!(value.abs() < f64::EPSILON, "{value} still run"),
                DebugValue::Histogram(_) => {}
            }
        }
        counted.sort();
        assert_eq!(
            counted,
            [("error".into(), 1), ("failed".into(), 2), ("succeeded".into(), 1)]
        );
    }
}
