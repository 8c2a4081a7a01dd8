//! Client of the Execution service.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_cas::retry::reconnection_pauses;
use bitzel_proto::chain;
use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::execution_client::ExecutionClient as Grpc;
use bitzel_proto::reapi::{
    ExecuteRequest, ExecuteResponse, RequestMetadata, ToolDetails, WaitExecutionRequest,
};
use bitzel_proto::scheduling_hint::{INPUT_TREES, REMAINING_PATH, input_trees};
use bitzel_proto::{Digest, InstanceName};
use bitzel_rpc::endpoint::Channel;
use bitzel_rpc::telemetry::{REQUEST_METADATA, pass_trace_on};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::walk::{BuildEvent, ExecutionRequest, Executions, ServerCondition};

/// Sum of all pauses of one execution before the client gives up: long enough for the restart of a server.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest pause before jitter.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(8);

/// States of an operation, from the present one to the last.
pub type OperationStream = BoxStream<'static, Result<Operation, Status>>;

/// Calls of an Execution service: by a channel to a server, or in its own process.
#[async_trait]
pub trait ExecutionCalls: Send + Sync + 'static {
    /// Starts an execution.
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<OperationStream, Status>;

    /// Returns to an execution.
    async fn wait_execution(&self, request: Request<WaitExecutionRequest>)
    -> Result<OperationStream, Status>;
}

#[async_trait]
impl ExecutionCalls for Grpc<Channel> {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<OperationStream, Status> {
        Ok(Self::execute(&mut self.clone(), request)
            .await?
            .into_inner()
            .boxed())
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<OperationStream, Status> {
        Ok(Self::wait_execution(&mut self.clone(), request)
            .await?
            .into_inner()
            .boxed())
    }
}

/// Executes Actions, and returns to a running execution after the connection broke.
#[derive(Clone)]
pub struct RemoteExecutions {
    calls: Arc<dyn ExecutionCalls>,
    instance: InstanceName,
    invocation: String,
    events: mpsc::UnboundedSender<BuildEvent>,
}

impl RemoteExecutions {
    /// Client whose requests carry `invocation`, so that the server's logs can be told apart by build. `events` receives
    /// interruptions of executions.
    pub fn new(
        channel: Channel,
        instance: InstanceName,
        invocation: String,
        events: mpsc::UnboundedSender<BuildEvent>,
    ) -> Self {
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE);
        Self::with_calls(Arc::new(grpc), instance, invocation, events)
    }

    /// As [`Self::new`], with calls of another kind.
    pub fn with_calls(
        calls: Arc<dyn ExecutionCalls>,
        instance: InstanceName,
        invocation: String,
        events: mpsc::UnboundedSender<BuildEvent>,
    ) -> Self {
        Self {
            calls,
            instance,
            invocation,
            events,
        }
    }

    fn request<T>(&self, message: T, action: Digest, task: &str) -> Request<T> {
        let (target, mnemonic) = task.rsplit_once(':').unwrap_or((task, ""));
        let metadata = RequestMetadata {
            tool_details: Some(ToolDetails {
                tool_name: "bitzel".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            action_id: action.hash_hex(),
            tool_invocation_id: self.invocation.clone(),
            action_mnemonic: mnemonic.to_owned(),
            target_id: target.to_owned(),
            ..RequestMetadata::default()
        };
        let mut request = Request::new(message);
        let value = MetadataValue::from_bytes(&metadata.encode_to_vec());
        request.metadata_mut().insert_bin(REQUEST_METADATA, value);
        pass_trace_on(request.metadata_mut().as_mut());
        request
    }
}

#[async_trait]
impl Executions for RemoteExecutions {
    /// Retries for a minute where a retry can help.
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        let ExecutionRequest {
            action,
            skip_cache_lookup,
            remaining_path,
            input_trees,
            task,
        } = request;
        let mut execution = Execution {
            client: self,
            task,
            remaining_path,
            input_trees,
            operation: None,
            interrupted: false,
        };
        let mut pauses = reconnection_pauses(MAX_RETRY_PAUSE);
        let mut remaining = RETRY_TIMEOUT;
        loop {
            let error = match execution.attempt(action, skip_cache_lookup).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.code() == Code::NotFound && execution.operation.take().is_some() {
                // The server answers, but forgot the operation, for example because it was restarted: start again.
                continue;
            }
            let Some(condition) = ServerCondition::of_status(&error) else {
                execution.resumed();
                return Err(error);
            };
            if remaining.is_zero() {
                return Err(error);
            }
            let pause = pauses.next().unwrap_or(MAX_RETRY_PAUSE).min(remaining);
            remaining -= pause;
            execution.interrupted(condition, &error, pause);
            tokio::time::sleep(pause).await;
        }
    }
}

/// One execution, over all of its connections.
struct Execution<'client> {
    client: &'client RemoteExecutions,
    task: &'client str,
    remaining_path: Duration,
    input_trees: &'client [Digest],
    /// Name of the operation, once the server told it.
    operation: Option<String>,
    /// True from the loss of the server to its next answer.
    interrupted: bool,
}

impl Execution<'_> {
    /// Starts the execution, or returns to it if it has started, and follows it to its end.
    async fn attempt(&mut self, action: Digest, skip_cache_lookup: bool) -> Result<ExecuteResponse, Status> {
        let client = self.client;
        let stream = match &self.operation {
            Some(name) => {
                let request = WaitExecutionRequest { name: name.clone() };
                let request = client.request(request, action, self.task);
                client.calls.wait_execution(request).await?
            }
            None => {
                let request = ExecuteRequest {
                    instance_name: client.instance.to_string(),
                    action_digest: Some(action.to_wire()),
                    digest_function: action.function().to_wire(),
                    skip_cache_lookup,
                    ..ExecuteRequest::default()
                };
                let mut request = client.request(request, action, self.task);
                let milliseconds = u32::try_from(self.remaining_path.as_millis()).unwrap_or(u32::MAX);
                request
                    .metadata_mut()
                    .insert(REMAINING_PATH, MetadataValue::from(milliseconds));
                if let Ok(trees) = input_trees(self.input_trees).parse() {
                    request.metadata_mut().insert(INPUT_TREES, trees);
                }
                client.calls.execute(request).await?
            }
        };
        self.wait(stream).await
    }

    /// Follows an operation to its end.
    async fn wait(&mut self, mut stream: OperationStream) -> Result<ExecuteResponse, Status> {
        while let Some(operation) = stream.try_next().await? {
            self.resumed();
            self.operation = Some(operation.name);
            if !operation.done {
                continue;
            }
            return match operation.result {
                Some(operation::Result::Response(any)) => ExecuteResponse::decode(any.value.as_slice())
                    .map_err(|error| {
                        Status::data_loss(format!("the execute response cannot be decoded: {error}"))
                    }),
                Some(operation::Result::Error(error)) => {
                    Err(Status::new(Code::from_i32(error.code), error.message))
                }
                None => Err(Status::data_loss("the operation is done without a result")),
            };
        }
        Err(Status::unavailable(
            "the stream of operations ended before the operation was done",
        ))
    }

    fn interrupted(&mut self, condition: ServerCondition, error: &Status, pause: Duration) {
        self.interrupted = true;
        let (recipe, task) = self.names();
        self.tell(BuildEvent::ExecutionInterrupted {
            recipe,
            task,
            condition,
            reason: chain(error).pop().unwrap_or_default(),
            retry_milliseconds: pause.as_millis().try_into().unwrap_or(u64::MAX),
        });
    }

    fn resumed(&mut self) {
        if std::mem::take(&mut self.interrupted) {
            let (recipe, task) = self.names();
            self.tell(BuildEvent::ExecutionResumed { recipe, task });
        }
    }

    fn names(&self) -> (String, String) {
        let (recipe, task) = self.task.rsplit_once(':').unwrap_or((self.task, ""));
        (recipe.to_owned(), task.to_owned())
    }

    fn tell(&self, event: BuildEvent) {
        // A build without a listener goes on.
        self.client.events.send(event).ok();
    }
}

#[cfg(test)]
mod tests;
