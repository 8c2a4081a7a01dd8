//! Recorder of workers' results.

use std::sync::Arc;

use bitzel_cas::ActionCache;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::scheduling_hint::{MAX_INPUT_TREES, parse_input_trees};
use bitzel_proto::timestamp;
use bytesize::ByteSize;
use tonic::Code;

use super::action_metrics;
use super::dispatcher::Dispatcher;
use super::error::ExecutionError;
use super::measured_use::{measured_use, memory_bound};
use super::operation_queue::{CompletedLease, OperationId, OperationOutcome, QueuedAction};

/// Recorder that writes results to the action cache before clients get them: a client that got a success finds it in the
/// cache.
pub(super) struct ResultRecorder {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) worker: Arc<str>,
}

/// Treatment of a worker's response.
enum Verdict {
    /// The response goes to the clients unchanged.
    Report,
    /// The Action succeeded, so its result may be cached.
    Cacheable(Box<ActionResult>),
    /// The worker failed; another one may succeed.
    Retry(String),
}

impl ResultRecorder {
    /// Records a result and reports it to the queue.
    pub(super) async fn record(&self, completion: CompletedLease, response: ExecuteResponse) {
        let operation = completion.operation;
        let mut guard = FinishGuard {
            dispatcher: &self.dispatcher,
            operation: Some(operation),
        };
        let response = self.complete_response(&completion.action, response);
        if let Some(bound) = memory_bound(&response) {
            let attempt = format!(
                "worker {} ended it at its bound of memory, {}",
                self.worker,
                ByteSize(bound)
            );
            if self.dispatcher.retry_with_more_memory(operation, bound, attempt) {
                guard.operation = None;
                action_metrics::retried();
                return;
            }
        }
        let trees = output_trees(&response);
        if !trees.is_empty() {
            self.dispatcher.note_trees(completion.worker, &trees);
        }
        if let Some(measured) = measured_use(&response) {
            self.dispatcher.learn(&completion.action, &measured);
        }
        let response = match verdict(&response, completion.action.do_not_cache) {
            Verdict::Report => response,
            Verdict::Cacheable(result) => self.cache(&completion.action, *result, response).await,
            Verdict::Retry(reason) => {
                let attempt = format!("worker {} answered: {reason}", self.worker);
                guard.operation = None;
                action_metrics::retried();
                self.dispatcher.retry(operation, attempt);
                return;
            }
        };
        action_metrics::answered(&response);
        let outcome = OperationOutcome::Response(Box::new(response));
        guard.operation = None;
        self.dispatcher.finish(operation, outcome);
    }

    /// Writes a result to the action cache. A failure costs a later build time, but this result is valid.
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

    /// Adds data of the server.
    fn complete_response(&self, action: &QueuedAction, mut response: ExecuteResponse) -> ExecuteResponse {
        let status = response.status.get_or_insert_default();
        response.cached_result = false;
        match &mut response.result {
            Some(result) => {
                let metadata = result.execution_metadata.get_or_insert_default();
                // A worker speaks for itself alone.
                self.worker.as_ref().clone_into(&mut metadata.worker);
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

/// Decides the treatment of a response. A result is cached with OK status and exit code 0. `remote_execution.proto` forbids
/// to cache another status; a failing command runs again, because the machine may be the cause.
fn verdict(response: &ExecuteResponse, do_not_cache: bool) -> Verdict {
    let status = response.status.as_ref();
    match status.map_or(Code::Ok, |status| Code::from_i32(status.code)) {
        Code::Ok => {}
        // Not a fault of the Action: the worker cannot reach the store, or stopped the Action because it shuts down.
        // Responses to a Cancel of the server do not get here, nor does `ABORTED`, which hands the lease back.
        Code::Unavailable | Code::Cancelled => {
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

/// Directories that the Action has left, which its worker keeps in its caches.
fn output_trees(response: &ExecuteResponse) -> Vec<u64> {
    let status = response.status.as_ref().map_or(0, |status| status.code);
    let result = response.result.as_ref().filter(|_| status == Code::Ok as i32);
    let directories = result.into_iter().flat_map(|result| &result.output_directories);
    directories
        .filter_map(|directory| directory.root_directory_digest.as_ref()?.hash.get(..16))
        .flat_map(parse_input_trees)
        .take(MAX_INPUT_TREES)
        .collect()
}

/// Guard that fails an operation whose recording was dropped or panicked: its clients would wait for ever.
struct FinishGuard<'a> {
    dispatcher: &'a Dispatcher,
    operation: Option<OperationId>,
}

impl Drop for FinishGuard<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation {
            let error = ExecutionError::Internal("the result could not be recorded");
            self.dispatcher.finish(operation, OperationOutcome::Failed(error));
        }
    }
}
