//! Conversion of an [`ExecutionError`] into a gRPC status: the only one of this crate.
//!
//! The codes are those that `remote_execution.proto` lists at `Execution.Execute`.

use std::error::Error;

use bitzel_proto::missing_blobs::missing_blobs_status;
use tonic::{Code, Status};

use super::error::ExecutionError;

impl From<&ExecutionError> for Status {
    fn from(error: &ExecutionError) -> Self {
        let code = match error {
            ExecutionError::MissingBlobs(digests) => return missing_blobs_status(digests),
            ExecutionError::InstanceName(_)
            | ExecutionError::InvalidDigest { .. }
            | ExecutionError::MalformedMessage { .. }
            | ExecutionError::MessageTooLarge { .. }
            | ExecutionError::PlatformTooLarge { .. }
            | ExecutionError::Timeout { .. }
            | ExecutionError::WorkerProtocol(_) => Code::InvalidArgument,
            ExecutionError::OperationNotFound(_) | ExecutionError::WorkerNotFound(_) => Code::NotFound,
            ExecutionError::QueueFull { .. }
            | ExecutionError::UserQueueFull { .. }
            | ExecutionError::TooManyPropertySets { .. } => Code::ResourceExhausted,
            ExecutionError::NoWorker { .. } | ExecutionError::Quarantined { .. } => Code::FailedPrecondition,
            ExecutionError::AttemptsExhausted { .. } | ExecutionError::ShuttingDown => Code::Unavailable,
            ExecutionError::Store { source, .. } => match source.as_ref() {
                // A store on another machine answers with a code that the client has to act on, such as UNAVAILABLE.
                bitzel_cas::Error::Remote { source, .. } => source.code(),
                bitzel_cas::Error::InvalidDirectory { .. }
                | bitzel_cas::Error::TreeTooLarge { .. }
                | bitzel_cas::Error::Decode { .. } => Code::InvalidArgument,
                _ => Code::Internal,
            },
            ExecutionError::Internal(_) => Code::Internal,
        };
        Self::new(code, message(error))
    }
}

impl From<ExecutionError> for Status {
    fn from(error: ExecutionError) -> Self {
        Self::from(&error)
    }
}

/// Text of an error with its causes, in one line: a status has no chain of sources.
fn message(error: &ExecutionError) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        match error.downcast_ref::<Status>() {
            // The display of a status also lists its metadata, which has no meaning for people.
            Some(status) => message.push_str(status.message()),
            None => message.push_str(&error.to_string()),
        }
        cause = error.source();
    }
    message
}
