//! Conversion of an [`Error`] into a gRPC status. There is no other one in this crate.

use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::{google, with_causes};
use tonic::{Code, Status};

use crate::error::{BackEndFailure, Error, is_broken_connection};

impl Error {
    /// Code of this error in a gRPC status.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::DigestMismatch { .. }
            | Self::InvalidArgument(_)
            | Self::InvalidDirectory { .. }
            | Self::TreeTooLarge { .. }
            | Self::Decode { .. } => Code::InvalidArgument,
            Self::OffsetOutOfRange { .. } => Code::OutOfRange,
            Self::NoSpace { .. } => Code::ResourceExhausted,
            Self::Io { .. } => Code::Internal,
            Self::Endpoint(error) => error.code(),
            Self::BackEnd { failure, .. } => match failure {
                BackEndFailure::Unavailable => Code::Unavailable,
                BackEndFailure::Denied => Code::PermissionDenied,
                BackEndFailure::Full => Code::ResourceExhausted,
                BackEndFailure::Faulty => Code::Internal,
            },
            Self::ReadOnly(_) => Code::PermissionDenied,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Abandoned(_) => Code::Aborted,
            // To the client of this server, an outage of the store behind it is one of this server.
            Self::Remote { source, .. } if is_broken_connection(source) => Code::Unavailable,
            // The client of this server has to act on the code of the remote store.
            Self::Remote { source, .. } => source.code(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), message(&error))
    }
}

/// Status of one blob in the response to a batch.
pub fn blob_status(result: Result<(), Error>) -> google::rpc::Status {
    match result {
        Ok(()) => google::rpc::Status::default(),
        Err(error) => to_rpc_status(&error.into()),
    }
}

/// Text of an error and its causes in one line: a status has no chain of sources.
fn message(error: &Error) -> String {
    match error {
        // The display of a status also lists its metadata, which is of no use to a person.
        Error::Remote { source, .. } => format!("{error}: {}", source.message()),
        _ => with_causes(error),
    }
}

#[cfg(test)]
mod tests;
