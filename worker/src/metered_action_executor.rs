//! Counts what a worker executes, for operators.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ExecuteResponse;
use bitzel_rpc::telemetry::execution_outcome;
use metrics::{counter, gauge};

use crate::action_executor::{ActionExecutor, ActionRequest};

const RUNNING: &str = "bitzel_worker_actions_running";

/// Metrics of the executor behind it, through the `metrics` facade:
///
/// - `bitzel_worker_actions_running`: Actions from the fetch of their inputs to the upload of their outputs;
/// - `bitzel_worker_actions_total`, by `outcome`: `succeeded`, `failed` (the exit code) or `error` (anything else, an
///   Action that was cancelled included).
///
/// Where their time goes, the server measures for all its workers (`bitzel_action_stage_seconds`).
pub struct MeteredActionExecutor {
    inner: Arc<dyn ActionExecutor>,
}

impl MeteredActionExecutor {
    /// Metrics of `inner`.
    pub fn new(inner: Arc<dyn ActionExecutor>) -> Self {
        // There before the first Action: a worker without work is not one without metrics.
        gauge!(RUNNING).set(0.0);
        Self { inner }
    }
}

/// One more Action runs while this lives, however the execution ends.
struct Running;

impl Running {
    fn start() -> Self {
        gauge!(RUNNING).increment(1.0);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!(RUNNING).decrement(1.0);
    }
}

#[async_trait]
impl ActionExecutor for MeteredActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let running = Running::start();
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

    /// Answers with this.
    struct Answering(ExecuteResponse);

    #[async_trait]
    impl ActionExecutor for Answering {
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
    fn actions_are_counted_by_what_became_of_them_and_none_runs_in_the_end() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let work = async {
            for response in [response(0, 0), response(1, 0), response(1, 0), response(0, 9)] {
                let metered = MeteredActionExecutor::new(Arc::new(Answering(response.clone())));
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
