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
