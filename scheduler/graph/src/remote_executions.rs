//! Client of the Execution service.

use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::execution_client::ExecutionClient as Grpc;
use bitzel_proto::reapi::{
    ExecuteRequest, ExecuteResponse, RequestMetadata, ToolDetails, WaitExecutionRequest,
};
use bitzel_proto::{Digest, InstanceName};
use bitzel_rpc::endpoint::Channel;
use bitzel_rpc::telemetry::{REQUEST_METADATA, pass_trace_on};
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use crate::walk::{ExecutionRequest, Executions};

/// Waits between attempts to get back to a server that went away: about a minute together.
const BACKOFF: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// Executes Actions, and finds its way back to an execution when the connection breaks.
#[derive(Debug, Clone)]
pub struct RemoteExecutions {
    grpc: Grpc<Channel>,
    instance: InstanceName,
    invocation: String,
}

impl RemoteExecutions {
    /// A client whose requests carry `invocation`, so that the server's logs can be told apart by build.
    pub fn new(channel: Channel, instance: InstanceName, invocation: String) -> Self {
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE);
        Self {
            grpc,
            instance,
            invocation,
        }
    }

    async fn attempt(
        &self,
        action: Digest,
        skip_cache_lookup: bool,
        task: &str,
        operation: &mut Option<String>,
    ) -> Result<ExecuteResponse, Status> {
        let mut grpc = self.grpc.clone();
        let stream = match operation {
            Some(name) => {
                let request = WaitExecutionRequest { name: name.clone() };
                grpc.wait_execution(self.request(request, action, task)).await?
            }
            None => {
                let request = ExecuteRequest {
                    instance_name: self.instance.to_string(),
                    action_digest: Some(action.to_wire()),
                    digest_function: action.function().to_wire(),
                    skip_cache_lookup,
                    ..ExecuteRequest::default()
                };
                grpc.execute(self.request(request, action, task)).await?
            }
        };
        wait(stream.into_inner(), operation).await
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
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        let ExecutionRequest {
            action,
            skip_cache_lookup,
            task,
        } = request;
        let mut operation: Option<String> = None;
        let mut attempts = BACKOFF.iter();
        loop {
            let error = match self
                .attempt(action, skip_cache_lookup, task, &mut operation)
                .await
            {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.code() {
                // The server forgot the operation, for example because it was restarted: start again.
                Code::NotFound if operation.is_some() => operation = None,
                Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::ResourceExhausted => {}
                _ => return Err(error),
            }
            let Some(wait) = attempts.next() else {
                return Err(error);
            };
            tracing::warn!(task, %error, "lost the execution, trying again in {wait:?}");
            tokio::time::sleep(*wait).await;
        }
    }
}

/// Follows an operation to its end, remembering its name.
async fn wait(
    mut stream: Streaming<Operation>,
    name: &mut Option<String>,
) -> Result<ExecuteResponse, Status> {
    while let Some(operation) = stream.message().await? {
        *name = Some(operation.name);
        if !operation.done {
            continue;
        }
        return match operation.result {
            Some(operation::Result::Response(any)) => {
                ExecuteResponse::decode(any.value.as_slice()).map_err(|error| {
                    Status::data_loss(format!("the execute response cannot be decoded: {error}"))
                })
            }
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
