//! Decorator that bounds the time of an Action as a whole.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::ExecuteResponse;
use tonic::Code;

use crate::action_executor::{ActionExecutor, ActionRequest};

/// Cancels Actions that take longer than a total time, with the fetch of inputs and the upload of outputs.
///
/// `Action.timeout` bounds the command alone. A small request can make work around it that takes hours.
pub struct TimedActionExecutor {
    inner: Arc<dyn ActionExecutor>,
    total_time: Duration,
}

impl TimedActionExecutor {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn ActionExecutor>, total_time: Duration) -> Self {
        Self { inner, total_time }
    }

    fn status(&self) -> rpc::Status {
        rpc::Status {
            code: Code::DeadlineExceeded.into(),
            message: format!(
                "the Action took longer than the {} that this worker allows for inputs, command and outputs together; \
                 if it needs that much, raise `total_time` of [execution.bounds], or --action-time of the worker",
                humantime::format_duration(self.total_time)
            ),
            details: vec![],
        }
    }
}

#[async_trait]
impl ActionExecutor for TimedActionExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let outer = request.cancellation.clone();
        let cancellation = outer.child_token();
        let work = self.inner.execute(ActionRequest {
            cancellation: cancellation.clone(),
            ..request
        });
        tokio::pin!(work);
        let mut response = tokio::select! {
            biased;
            response = &mut work => return response,
            () = tokio::time::sleep(self.total_time) => {
                cancellation.cancel();
                work.await
            }
        };
        let is_cancelled = response
            .status
            .as_ref()
            .is_some_and(|status| status.code == Code::Cancelled as i32);
        // It may have ended just then, or somebody else cancelled it.
        if is_cancelled && !outer.is_cancelled() {
            let status = self.status();
            response.message.clone_from(&status.message);
            response.status = Some(status);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::{DigestFunction, InstanceName};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Executor that ends only when it is cancelled.
    struct Endless;

    #[async_trait]
    impl ActionExecutor for Endless {
        async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
            request.cancellation.cancelled().await;
            ExecuteResponse {
                status: Some(rpc::Status {
                    code: Code::Cancelled.into(),
                    ..rpc::Status::default()
                }),
                ..ExecuteResponse::default()
            }
        }
    }

    fn request(cancellation: CancellationToken) -> ActionRequest {
        ActionRequest {
            instance: InstanceName::default(),
            action: DigestFunction::Sha256.digest(b"action"),
            queued: None,
            stages: None,
            cancellation,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_ends_an_action_with_an_error_of_its_own() {
        let timed = TimedActionExecutor::new(Arc::new(Endless), Duration::from_hours(1));
        let status = timed
            .execute(request(CancellationToken::new()))
            .await
            .status
            .unwrap();
        assert_eq!(status.code, Code::DeadlineExceeded as i32);
        assert!(status.message.contains("the 1h that"), "{}", status.message);
        assert!(status.message.contains("--action-time"), "{}", status.message);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancellation_stays_one() {
        let timed = TimedActionExecutor::new(Arc::new(Endless), Duration::from_hours(1));
        let cancellation = CancellationToken::new();
        cancellation.cancel();
        let status = timed.execute(request(cancellation)).await.status.unwrap();
        assert_eq!(status.code, Code::Cancelled as i32);
    }
}
