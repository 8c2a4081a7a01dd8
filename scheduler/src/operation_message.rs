//! Operation messages for clients: `google.longrunning.Operation` and its two payloads.

use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::google::protobuf::Any;
use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::reapi::{
    ActionResult, ExecuteOperationMetadata, ExecuteResponse, ExecutedActionMetadata, execution_stage,
};
use bitzel_proto::{Digest, InstanceName, timestamp};
use prost::Message;
use tonic::Status;
use uuid::Uuid;

use super::error::ExecutionError;
use super::operation_queue::{OperationId, OperationOutcome, Progress, Update};

const METADATA_TYPE: &str = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata";
const RESPONSE_TYPE: &str = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse";

/// Name of an operation: `{instance}/operations/{uuid}`. The instance lets a proxy that routes by it route `WaitExecution`
/// too.
pub(super) fn operation_name(instance: &InstanceName, id: OperationId) -> String {
    let separator = if instance.as_str().is_empty() { "" } else { "/" };
    format!("{instance}{separator}operations/{}", id.0)
}

/// Parses the name of an operation.
pub(super) fn parse_operation_name(name: &str) -> Option<OperationId> {
    let (instance, id) = name.rsplit_once("operations/")?;
    let whole_segment = instance.is_empty() || instance.ends_with('/');
    whole_segment
        .then(|| Uuid::try_parse(id).ok())
        .flatten()
        .map(OperationId)
}

/// Message of an operation in its present state.
pub(super) fn operation_message(name: &str, update: &Update) -> Operation {
    let mut partial = ExecutedActionMetadata {
        queued_timestamp: Some(timestamp::from_system_time(update.action.queued)),
        ..Default::default()
    };
    let (stage, response) = match &update.progress {
        Progress::Queued => (execution_stage::Value::Queued, None),
        Progress::Executing { worker } => {
            worker.as_ref().clone_into(&mut partial.worker);
            (execution_stage::Value::Executing, None)
        }
        Progress::Completed(outcome) => {
            let response = match outcome.as_ref() {
                OperationOutcome::Response(response) => response.encode_to_vec(),
                OperationOutcome::Failed(error) => failure(error).encode_to_vec(),
            };
            (execution_stage::Value::Completed, Some(response))
        }
    };
    message(name, stage, update.action.key.digest, Some(partial), response)
}

/// Message of a completed operation whose result came from the action cache.
pub(super) fn cached_operation(name: &str, action: Digest, result: ActionResult) -> Operation {
    let response = ExecuteResponse {
        result: Some(result),
        cached_result: true,
        status: Some(bitzel_proto::google::rpc::Status::default()),
        ..Default::default()
    };
    let stage = execution_stage::Value::Completed;
    message(name, stage, action, None, Some(response.encode_to_vec()))
}

/// Response for the error of an execution: `Operation.error` MUST NOT be set.
pub(super) fn failure(error: &ExecutionError) -> ExecuteResponse {
    ExecuteResponse {
        status: Some(to_rpc_status(&Status::from(error))),
        message: error.to_string(),
        ..Default::default()
    }
}

fn message(
    name: &str,
    stage: execution_stage::Value,
    action: Digest,
    partial: Option<ExecutedActionMetadata>,
    response: Option<Vec<u8>>,
) -> Operation {
    let metadata = ExecuteOperationMetadata {
        stage: stage.into(),
        action_digest: Some(action.into()),
        digest_function: action.function().to_wire(),
        partial_execution_metadata: partial,
        ..Default::default()
    };
    Operation {
        name: name.to_owned(),
        metadata: Some(Any {
            type_url: METADATA_TYPE.to_owned(),
            value: metadata.encode_to_vec(),
        }),
        done: response.is_some(),
        result: response.map(|value| {
            operation::Result::Response(Any {
                type_url: RESPONSE_TYPE.to_owned(),
                value,
            })
        }),
    }
}
