//! Execution service: `Execute` and `WaitExecution`.

use std::pin::Pin;
use std::sync::Arc;

use bitzel_access::{Permission, PermissionSet, ResponseMemory, authorize, permitted};
use bitzel_cas::inlining::{InlineRequest, inline};
use bitzel_cas::{ActionCache, BlobStore};
use bitzel_proto::google::longrunning::Operation;
use bitzel_proto::reapi::execution_server::{Execution, ExecutionServer};
use bitzel_proto::reapi::{ActionResult, ExecuteRequest, RequestMetadata, WaitExecutionRequest};
use bitzel_proto::{Digest, DigestFunction, InstanceName, InvalidDigest};
use bitzel_rpc::telemetry::request_metadata;
use futures::{Stream, StreamExt, stream};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status};
use uuid::Uuid;

use super::action_metrics;
use super::action_reader::ActionReader;
use super::dispatcher::{Attachment, Dispatcher, RecordedUpdate};
use super::error::ExecutionError;
use super::operation_message::{cached_operation, operation_message, operation_name, parse_operation_name};
use super::operation_queue::{
    ActionKey, OperationId, OperationOutcome, Progress, QueuedAction, Requester, Update,
};
use super::request_policy::{RequestPolicy, SchedulingHints};

type OperationStream = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

/// Execution service: takes Actions from clients and reports the state of their operations.
#[derive(Clone)]
pub struct ExecutionService {
    pub(super) action_reader: Arc<ActionReader>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) request_policy: Arc<RequestPolicy>,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) shutdown: CancellationToken,
}

impl ExecutionService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self)
    }

    /// Answers from the action cache, or enqueues the Action.
    async fn start(
        &self,
        mut request: ExecuteRequest,
        request_metadata: Option<RequestMetadata>,
        requester: Requester,
        hints: SchedulingHints,
        extensions: &Extensions,
    ) -> Result<Response<OperationStream>, Status> {
        let queued = self.dispatcher.clock().wall();
        let mut key = action_key(&request)?;
        if self.action_reader.maps(&key.instance) {
            key = self.action_reader.mapped(&key).await?;
        }
        let digest = key.digest;
        let inline_request = InlineRequest {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: std::mem::take(&mut request.inline_output_files)
                .into_iter()
                .collect(),
        };
        // Both at the same time: a hit does not need the Action to exist, unless it must not be cached.
        let (action, cached) = tokio::join!(
            self.action_reader.read_action(&key),
            self.look_up(&key, request.skip_cache_lookup)
        );
        if let Some(mut result) = cached?
            && !action.as_ref().is_ok_and(|action| action.do_not_cache)
        {
            action_metrics::cached();
            let name = operation_name(&key.instance, OperationId(Uuid::new_v4()));
            inline(
                &*self.action_reader.blob_stores.store(&key.instance),
                digest.function(),
                &mut result,
                &inline_request,
            )
            .await;
            let memory = ResponseMemory::for_message(extensions, result.encoded_len() as u64).await?;
            let operation = cached_operation(&name, digest, result);
            let mut response: Response<OperationStream> =
                Response::new(stream::iter([Ok(operation)]).boxed());
            response.extensions_mut().insert(memory);
            return Ok(response);
        }
        let summary = self.action_reader.check(&key, &action?).await?;
        for permission in summary.permissions {
            authorize(extensions, permission, &key.instance)?;
        }
        let priority = request.execution_policy.map_or(0, |policy| policy.priority);
        let priority = permitted_priority(priority, permitted(extensions, &key.instance));
        let action = QueuedAction {
            requester,
            priority: self.request_policy.priority(&key.instance, priority),
            key,
            do_not_cache: summary.do_not_cache,
            requirements: summary.requirements,
            resources: summary.resources,
            remaining_path: hints.remaining_path,
            input_trees: hints.input_trees,
            queued,
            request_metadata,
        };
        if self.shutdown.is_cancelled() {
            return Err(ExecutionError::ShuttingDown.into());
        }
        let attachment = self
            .dispatcher
            .execute(action, summary.inputs, request.skip_cache_lookup)?;
        Ok(Response::new(self.follow(attachment, inline_request)))
    }

    /// Looks up the result of an Action.
    async fn look_up(&self, key: &ActionKey, skip: bool) -> Result<Option<ActionResult>, ExecutionError> {
        if skip {
            return Ok(None);
        }
        let result = self.action_cache.get(&key.instance, key.digest).await;
        result.map_err(ExecutionError::store("looking up the Action in the action cache"))
    }

    /// Streams the states of an operation from the current one to the last. Dropping the stream detaches the client.
    fn follow(&self, attachment: Attachment, inline_request: InlineRequest) -> OperationStream {
        let instance = attachment.updates.borrow().update.action.key.instance.clone();
        let name = operation_name(&instance, attachment.operation);
        let store = self.action_reader.blob_stores.store(&instance);
        let shutdown = self.shutdown.clone();
        let inline_request = Arc::new(inline_request);
        stream::unfold(Some(attachment), move |attachment| {
            let (name, shutdown) = (name.clone(), shutdown.clone());
            let (store, inline_request) = (Arc::clone(&store), Arc::clone(&inline_request));
            async move {
                let mut attachment = attachment?;
                let changed = tokio::select! {
                    biased;
                    changed = attachment.updates.changed() => changed.is_ok(),
                    () = shutdown.cancelled() => false,
                };
                if !changed {
                    return Some((Err(ExecutionError::ShuttingDown.into()), None));
                }
                let RecordedUpdate { update, record } = attachment.updates.borrow_and_update().clone();
                tokio::select! {
                    biased;
                    () = attachment.durable.wait(record) => {}
                    () = shutdown.cancelled() => {
                        return Some((Err(ExecutionError::ShuttingDown.into()), None));
                    }
                }
                let done = matches!(update.progress, Progress::Completed(_));
                let update = with_inlined_contents(update, &*store, &inline_request).await;
                let operation = operation_message(&name, &update);
                Some((Ok(operation), (!done).then_some(attachment)))
            }
        })
        .boxed()
    }
}

#[tonic::async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        let request_metadata = request_metadata(request.metadata().as_ref());
        let hints = SchedulingHints::read(request.metadata());
        let (_, extensions, request) = request.into_parts();
        let instance = InstanceName::new(request.instance_name.as_str()).map_err(ExecutionError::from)?;
        authorize(&extensions, Permission::Execute, &instance)?;
        let requester = self
            .request_policy
            .requester(&extensions, request_metadata.as_ref());
        self.start(request, request_metadata, requester, hints, &extensions)
            .await
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let name = request.name;
        let attachment = parse_operation_name(&name).and_then(|id| self.dispatcher.wait(id));
        match attachment {
            Some(attachment) => {
                // The instance in the name comes from the client and is not trusted.
                let instance = attachment.updates.borrow().update.action.key.instance.clone();
                authorize(&extensions, Permission::Execute, &instance)?;
                // The request cannot ask for inlined contents.
                Ok(Response::new(self.follow(attachment, InlineRequest::default())))
            }
            None => Err(ExecutionError::OperationNotFound(name.chars().take(300).collect()).into()),
        }
    }
}

/// Inlines the contents that this client requested. Other clients may follow the same execution.
async fn with_inlined_contents(
    mut update: Update,
    store: &dyn BlobStore,
    inline_request: &InlineRequest,
) -> Update {
    if !inline_request.is_empty()
        && let Progress::Completed(outcome) = &update.progress
        && let OperationOutcome::Response(response) = outcome.as_ref()
    {
        let mut response = response.clone();
        if let Some(result) = &mut response.result {
            inline(store, update.action.key.digest.function(), result, inline_request).await;
        }
        update.progress = Progress::Completed(Arc::new(OperationOutcome::Response(response)));
    }
    update
}

/// Priority that a client gets. Lower numbers go first and 0 is the default, so only a permission lets a client go before
/// others. Everybody may let others go first.
fn permitted_priority(requested: i32, permissions: PermissionSet) -> i32 {
    if permissions.contains(Permission::Priority) {
        requested
    } else {
        requested.max(0)
    }
}

/// Reads the key of the requested Action.
fn action_key(request: &ExecuteRequest) -> Result<ActionKey, ExecutionError> {
    const FIELD: &str = "ExecuteRequest.action_digest";
    let function = DigestFunction::from_wire(request.digest_function)
        .ok_or(InvalidDigest::Function(request.digest_function))
        .map_err(ExecutionError::invalid_digest("ExecuteRequest.digest_function"))?;
    let digest = Digest::from_wire_field(function, request.action_digest.as_ref())
        .map_err(ExecutionError::invalid_digest(FIELD))?;
    let instance = InstanceName::new(request.instance_name.as_str())?;
    Ok(ActionKey { instance, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_going_first_needs_a_permission() {
        let execute = PermissionSet::from(Permission::Execute);
        let both = execute.union(Permission::Priority.into());
        let given = |requested| [execute, both].map(|granted| permitted_priority(requested, granted));
        assert_eq!(given(-5), [0, -5]);
        assert_eq!(given(5), [5, 5]);
    }
}
