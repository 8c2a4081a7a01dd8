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
            | ExecutionError::ResourceProperty { .. }
            | ExecutionError::Timeout { .. }
            | ExecutionError::WorkerProtocol(_) => Code::InvalidArgument,
            ExecutionError::WorkerNameInUse(_) => Code::AlreadyExists,
            ExecutionError::OperationNotFound(_) | ExecutionError::WorkerNotFound(_) => Code::NotFound,
            ExecutionError::QueueFull { .. }
            | ExecutionError::UserQueueFull { .. }
            | ExecutionError::TooManyPropertySets { .. } => Code::ResourceExhausted,
            ExecutionError::NoWorker { .. } | ExecutionError::Quarantined { .. } => Code::FailedPrecondition,
            ExecutionError::AttemptsExhausted { .. } | ExecutionError::ShuttingDown => Code::Unavailable,
            ExecutionError::Store { source, .. } => match source.code() {
                // Missing blobs are an error of their own, so something else was not found: not the operation.
                Code::NotFound => Code::Internal,
                // Also that of a store which fails for now, such as UNAVAILABLE: the client acts on it.
                code => code,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bitzel_cas::error::BackEndFailure;

    use super::*;

    #[test]
    fn failures_of_the_store_keep_their_codes() {
        let code = |source: bitzel_cas::Error| {
            let error = ExecutionError::Store {
                context: "leasing the Action's inputs",
                source: Box::new(source),
            };
            Status::from(error).code()
        };
        let back_end = |failure| bitzel_cas::Error::back_end("GET", failure)("connection refused");
        let remote = |code| bitzel_cas::Error::remote("FindMissingBlobs")(Status::new(code, "no"));
        let deadline = bitzel_cas::Error::Deadline {
            context: "a read".to_owned(),
            limit: Duration::from_secs(1),
        };
        assert_eq!(code(back_end(BackEndFailure::Unavailable)), Code::Unavailable);
        assert_eq!(code(back_end(BackEndFailure::Full)), Code::ResourceExhausted);
        assert_eq!(code(back_end(BackEndFailure::Faulty)), Code::Internal);
        assert_eq!(code(deadline), Code::DeadlineExceeded);
        assert_eq!(code(remote(Code::Unavailable)), Code::Unavailable);
        assert_eq!(code(remote(Code::NotFound)), Code::Internal);
    }
}
