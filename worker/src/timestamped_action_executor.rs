//! Decorator that records which worker executed an Action, and when.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ExecuteResponse;
use bitzel_proto::timestamp::now;

use crate::action_executor::{ActionExecutor, ActionRequest};

/// Fills in the worker's name and the queue, start and completion times of each result. The times of the steps in
/// between are recorded by the executor behind it.
pub struct TimestampedActionExecutor {
    inner: Arc<dyn ActionExecutor>,
    worker_name: String,
}

impl TimestampedActionExecutor {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn ActionExecutor>, worker_name: String) -> Self {
        Self { inner, worker_name }
    }
}

#[async_trait]
impl ActionExecutor for TimestampedActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let (queued, started) = (request.queued, now());
        let mut response = self.inner.execute(request).await;
        if let Some(result) = &mut response.result {
            let metadata = result.execution_metadata.get_or_insert_default();
            metadata.worker.clone_from(&self.worker_name);
            metadata.queued_timestamp = queued;
            metadata.worker_start_timestamp = Some(started);
            metadata.worker_completed_timestamp = Some(now());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::google::protobuf::Timestamp;
    use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata};
    use bitzel_proto::{DigestFunction, InstanceName};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const STEP_TIME: Timestamp = Timestamp { seconds: 7, nanos: 0 };
    const QUEUED_TIME: Timestamp = Timestamp { seconds: 5, nanos: 0 };

    /// Executor that returns one fixed response.
    struct FixedResponse(ExecuteResponse);

    #[async_trait]
    impl ActionExecutor for FixedResponse {
        async fn execute(&self, _: ActionRequest) -> ExecuteResponse {
            self.0.clone()
        }
    }

    async fn execute(response: ExecuteResponse) -> ExecuteResponse {
        let executor = TimestampedActionExecutor::new(Arc::new(FixedResponse(response)), "tester".into());
        let request = ActionRequest {
            instance: InstanceName::default(),
            action: DigestFunction::Sha256.digest(b"action"),
            queued: Some(QUEUED_TIME),
            stages: None,
            cancellation: CancellationToken::new(),
        };
        executor.execute(request).await
    }

    #[tokio::test]
    async fn adds_name_and_times_to_those_of_the_steps() {
        let result = ActionResult {
            execution_metadata: Some(ExecutedActionMetadata {
                execution_start_timestamp: Some(STEP_TIME),
                ..ExecutedActionMetadata::default()
            }),
            ..ActionResult::default()
        };
        let response = ExecuteResponse {
            result: Some(result),
            ..ExecuteResponse::default()
        };
        let metadata = execute(response)
            .await
            .result
            .unwrap()
            .execution_metadata
            .unwrap();
        assert_eq!(metadata.worker, "tester");
        assert_eq!(metadata.queued_timestamp, Some(QUEUED_TIME));
        assert_eq!(metadata.execution_start_timestamp, Some(STEP_TIME));
        let times = [
            metadata.worker_start_timestamp,
            metadata.worker_completed_timestamp,
        ];
        let [start, completed] = times.map(|time| time.map(|time| (time.seconds, time.nanos)).unwrap());
        assert!(start <= completed);
    }

    #[tokio::test]
    async fn adds_no_result_to_an_error() {
        assert_eq!(execute(ExecuteResponse::default()).await.result, None);
    }
}
