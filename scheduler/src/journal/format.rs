//! Format of the records on every medium: protobuf messages, so that fields can be added.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{ExecuteResponse, Platform, RequestMetadata};
use bitzel_proto::{Digest, DigestFunction, InstanceName, timestamp};
use prost::Message;
use uuid::Uuid;

use crate::operation_message::failure;
use crate::operation_queue::{
    ActionKey, HolderProof, LeaseHolder, LeaseId, MAX_DURATIONS, MAX_OUTCOME_BYTES, OperationId,
    OperationOutcome, QueuedAction, Requester, RestoredOperation, RestoredState, TaskUse,
};
use crate::platform::RequiredProperties;
use crate::resources::Resources;

/// An accepted operation.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OperationRow {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(int32, tag = "2")]
    digest_function: i32,
    #[prost(message, optional, tag = "3")]
    action_digest: Option<bitzel_proto::reapi::Digest>,
    #[prost(bool, tag = "4")]
    do_not_cache: bool,
    #[prost(message, optional, tag = "5")]
    requirements: Option<Platform>,
    #[prost(string, tag = "6")]
    user: String,
    #[prost(uint32, tag = "7")]
    weight: u32,
    #[prost(string, tag = "8")]
    invocation: String,
    #[prost(sint32, tag = "9")]
    priority: i32,
    #[prost(int64, tag = "10")]
    queued_unix_nanos: i64,
    #[prost(message, optional, tag = "11")]
    request_metadata: Option<RequestMetadata>,
    #[prost(uint64, tag = "12")]
    memory_bytes: u64,
    #[prost(uint64, tag = "13")]
    millicpus: u64,
    #[prost(uint64, tag = "14")]
    disk_bytes: u64,
    #[prost(uint64, tag = "15")]
    remaining_path_millis: u64,
}

/// Use of resources by a task.
#[derive(Clone, PartialEq, Message)]
pub(super) struct UsageRow {
    #[prost(uint32, tag = "1")]
    runs: u32,
    #[prost(uint64, tag = "2")]
    memory_bytes: u64,
    #[prost(uint64, tag = "3")]
    millicpus: u64,
    #[prost(uint64, tag = "4")]
    disk_bytes: u64,
    #[prost(uint32, repeated, tag = "5")]
    milliseconds: Vec<u32>,
}

impl UsageRow {
    pub(super) fn new(task_use: &TaskUse) -> Self {
        Self {
            runs: task_use.runs,
            memory_bytes: task_use.resources.memory_bytes,
            millicpus: task_use.resources.millicpus,
            disk_bytes: task_use.resources.disk_bytes,
            milliseconds: task_use.milliseconds.clone(),
        }
    }

    /// The use of a task from the journal. `None` if the row is not valid.
    pub(super) fn decode_use(encoded: &[u8]) -> Option<TaskUse> {
        let mut row = Self::decode(encoded).ok()?;
        row.milliseconds.truncate(MAX_DURATIONS);
        Some(TaskUse {
            runs: row.runs,
            resources: Resources {
                memory_bytes: row.memory_bytes,
                millicpus: row.millicpus,
                disk_bytes: row.disk_bytes,
            },
            milliseconds: row.milliseconds,
        })
    }
}

/// The attempts of an operation.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AttemptsRow {
    /// The present lease; 0 if the operation waits.
    #[prost(uint64, tag = "1")]
    pub(super) lease: u64,
    #[prost(string, tag = "2")]
    pub(super) worker: String,
    /// Outcomes of the attempts so far.
    #[prost(string, repeated, tag = "3")]
    pub(super) attempts: Vec<String>,
    /// Proof of the instance of the worker.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) proof: Vec<u8>,
}

impl OperationRow {
    pub(super) fn new(action: &QueuedAction) -> Self {
        let property = |(name, value): &(String, String)| Property {
            name: name.clone(),
            value: value.clone(),
        };
        Self {
            instance: action.key.instance.as_str().to_owned(),
            digest_function: action.key.digest.function().to_wire(),
            action_digest: Some(action.key.digest.into()),
            do_not_cache: action.do_not_cache,
            requirements: Some(Platform {
                properties: action.requirements.properties().iter().map(property).collect(),
            }),
            user: action.requester.user.to_string(),
            weight: action.requester.weight.get(),
            invocation: action.requester.invocation.to_string(),
            priority: action.priority,
            queued_unix_nanos: timestamp::unix_nanos(action.queued),
            request_metadata: action.request_metadata.clone(),
            memory_bytes: action.resources.memory_bytes,
            millicpus: action.resources.millicpus,
            disk_bytes: action.resources.disk_bytes,
            remaining_path_millis: u64::try_from(action.remaining_path.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The Action, or `None` if the row is not valid.
    pub(super) fn action(self) -> Option<QueuedAction> {
        let function = DigestFunction::from_wire(self.digest_function)?;
        Some(QueuedAction {
            key: ActionKey {
                instance: InstanceName::new(self.instance).ok()?,
                digest: Digest::from_wire_field(function, self.action_digest.as_ref()).ok()?,
            },
            do_not_cache: self.do_not_cache,
            requirements: RequiredProperties::new(&self.requirements.unwrap_or_default()),
            requester: Requester {
                user: self.user.into(),
                weight: NonZeroU32::new(self.weight)?,
                invocation: self.invocation.into(),
            },
            resources: Resources {
                memory_bytes: self.memory_bytes,
                millicpus: self.millicpus,
                disk_bytes: self.disk_bytes,
            },
            remaining_path: Duration::from_millis(self.remaining_path_millis),
            input_trees: std::sync::Arc::default(),
            priority: self.priority,
            queued: SystemTime::UNIX_EPOCH
                + Duration::from_nanos(u64::try_from(self.queued_unix_nanos).unwrap_or_default()),
            request_metadata: self.request_metadata,
        })
    }
}

/// Encodes an outcome. `None` if it is too large to be kept.
pub(super) fn encode_outcome(outcome: &OperationOutcome) -> Option<Vec<u8>> {
    let encoded = match outcome {
        OperationOutcome::Response(response) => response.encode_to_vec(),
        OperationOutcome::Failed(error) => failure(error).encode_to_vec(),
    };
    (encoded.len() <= MAX_OUTCOME_BYTES).then_some(encoded)
}

/// An operation as the journal has it. `None`, with a message in the log, if that cannot be read.
pub(super) fn restored_operation(
    id: Uuid,
    operation: &[u8],
    attempts: AttemptsRow,
    outcome: Option<&[u8]>,
) -> Option<RestoredOperation> {
    let row = OperationRow::decode(operation).ok();
    let Some(action) = row.and_then(OperationRow::action) else {
        tracing::error!(operation = %id, "the journal has an operation that cannot be read; it is left out");
        return None;
    };
    let state = match (outcome.and_then(decode_outcome), attempts.lease) {
        (Some(outcome), _) => RestoredState::Completed(outcome),
        (None, 0) => RestoredState::Queued,
        (None, lease) => RestoredState::Leased {
            lease: LeaseId(lease),
            holder: LeaseHolder {
                worker: attempts.worker.into(),
                proof: HolderProof::from_journal(&attempts.proof),
            },
        },
    };
    Some(RestoredOperation {
        operation: OperationId(id),
        action,
        attempts: attempts.attempts,
        state,
    })
}

fn decode_outcome(encoded: &[u8]) -> Option<OperationOutcome> {
    let response = ExecuteResponse::decode(encoded).ok()?;
    Some(OperationOutcome::Response(Box::new(response)))
}
