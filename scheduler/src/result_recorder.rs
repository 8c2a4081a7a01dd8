//! What happens to a worker's result.

use std::sync::Arc;

use bitzel_cas::ActionCache;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::timestamp;
use tonic::Code;

use super::action_metrics;
use super::dispatcher::Dispatcher;
use super::error::ExecutionError;
use super::operation_queue::{Completion, OperationId, Outcome, QueuedAction};

/// Writes results to the action cache, and only then tells the clients: whoever was told of a success finds it in
/// the cache.
pub(super) struct ResultRecorder {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) worker: Arc<str>,
}

/// What a worker's answer means.
enum Verdict {
    /// Goes to the clients as it is.
    Report,
    /// Succeeded, so it may be cached.
    Cacheable(Box<ActionResult>),
    /// The worker could not do its part; another one may.
    Retry(String),
}

impl ResultRecorder {
    /// Sees a result through until the queue knows about it.
    pub(super) async fn record(&self, completion: Completion, response: ExecuteResponse) {
        let operation = completion.operation;
        let mut unfinished = Unfinished {
            dispatcher: &self.dispatcher,
            operation: Some(operation),
        };
        let response = self.complete_response(&completion.action, response);
        let response = match verdict(&response, completion.action.do_not_cache) {
            Verdict::Report => response,
            Verdict::Cacheable(result) => self.cache(&completion.action, *result, response).await,
            Verdict::Retry(reason) => {
                let attempt = format!("worker {} answered: {reason}", self.worker);
                unfinished.operation = None;
                action_metrics::retried();
                self.dispatcher.retry(operation, attempt);
                return;
            }
        };
        action_metrics::answered(&response);
        let outcome = Outcome::Response(Box::new(response));
        unfinished.operation = None;
        self.dispatcher.finish(operation, outcome);
    }

    /// A failing action cache costs a later build time, it does not make this result wrong.
    async fn cache(
        &self,
        action: &QueuedAction,
        result: ActionResult,
        mut response: ExecuteResponse,
    ) -> ExecuteResponse {
        let key = &action.key;
        if let Err(error) = self.action_cache.put(&key.instance, key.digest, result).await {
            tracing::error!(action = %key.digest, %error, "cannot write to the action cache");
            response.message = format!("the result could not be cached: {error}\n{}", response.message);
        }
        response
    }

    /// Fills in what the server knows and the worker left out.
    fn complete_response(&self, action: &QueuedAction, mut response: ExecuteResponse) -> ExecuteResponse {
        let status = response.status.get_or_insert_default();
        response.cached_result = false;
        match &mut response.result {
            Some(result) => {
                let metadata = result.execution_metadata.get_or_insert_default();
                if metadata.worker.is_empty() {
                    self.worker.as_ref().clone_into(&mut metadata.worker);
                }
                metadata
                    .queued_timestamp
                    .get_or_insert_with(|| timestamp::from_system_time(action.queued));
            }
            None if status.code == Code::Ok as i32 => {
                *status = rpc::Status {
                    code: Code::Internal.into(),
                    message: format!("worker {} sent neither a result nor an error", self.worker),
                    details: vec![],
                };
            }
            None => {}
        }
        response
    }
}

/// A result is cached when it is good: OK status and exit code 0. `remote_execution.proto` forbids the first;
/// a failing command is run again because its failure may be the machine's.
fn verdict(response: &ExecuteResponse, do_not_cache: bool) -> Verdict {
    let status = response.status.as_ref();
    match status.map_or(Code::Ok, |status| Code::from_i32(status.code)) {
        Code::Ok => {}
        // No fault of the Action: the worker cannot reach the store, or has stopped the Action by itself because it
        // shuts down. What the server told it to cancel does not get here.
        Code::Unavailable | Code::Aborted | Code::Cancelled => {
            return Verdict::Retry(status.map(|status| status.message.clone()).unwrap_or_default());
        }
        _ => return Verdict::Report,
    }
    match &response.result {
        Some(result) if result.exit_code == 0 && !do_not_cache => {
            Verdict::Cacheable(Box::new(result.clone()))
        }
        _ => Verdict::Report,
    }
}

/// Ends an operation whose recording was dropped or panicked: without it, its clients would wait for ever.
struct Unfinished<'a> {
    dispatcher: &'a Dispatcher,
    operation: Option<OperationId>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation {
            let error = ExecutionError::Internal("the result could not be recorded");
            self.dispatcher.finish(operation, Outcome::Failed(error));
        }
    }
}
