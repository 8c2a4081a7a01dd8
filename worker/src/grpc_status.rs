//! Conversion of a worker's errors to gRPC statuses.

use bitzel_proto::missing_blobs::missing_blobs_status;
use bitzel_proto::with_causes;
use tonic::Status;

use crate::error::Error;

/// The status that the client of an Action receives for `error`.
///
/// Faults of the Action are `INVALID_ARGUMENT` or `FAILED_PRECONDITION`, so that no other worker tries it again. That
/// includes bounds: with `RESOURCE_EXHAUSTED`, clients such as Bazel would try the same again and again. Faults of this
/// machine are `INTERNAL` or `UNAVAILABLE`, or `ABORTED` if it has too few resources: the scheduler then lets another
/// worker run the Action.
pub fn grpc_status(error: &Error) -> Status {
    match error {
        error if error.is_exhaustion() => Status::aborted(with_causes(error)),
        Error::MissingBlobs(digests) => missing_blobs_status(digests),
        Error::Store(bitzel_cas::Error::NotFound(digest)) => missing_blobs_status(&[*digest]),
        Error::InvalidAction(_)
        | Error::InvalidDigest { .. }
        | Error::InvalidInputRoot(_)
        | Error::CommandNotStarted(_) => Status::invalid_argument(with_causes(error)),
        Error::InvalidOutput { .. }
        | Error::ResultTooLarge { .. }
        | Error::UndeclaredWrites { .. }
        | Error::BoundReached(_) => Status::failed_precondition(with_causes(error)),
        Error::TimedOut(_) | Error::InputsTimedOut(_) => Status::deadline_exceeded(with_causes(error)),
        Error::Cancelled => Status::cancelled(with_causes(error)),
        Error::Store(_) => Status::unavailable(with_causes(error)),
        Error::Exhausted(_) => Status::aborted(with_causes(error)),
        Error::Sandbox(_)
        | Error::SandboxUnavailable { .. }
        | Error::UnknownRoot(_)
        | Error::DirectoryInUse(_)
        | Error::SharedDirectory(_)
        | Error::LostFile(_)
        | Error::Io { .. } => Status::internal(with_causes(error)),
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::DigestFunction;
    use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
    use tonic::Code;

    use super::*;

    #[test]
    fn tells_faults_of_the_action_from_faults_of_the_machine() {
        let digest = DigestFunction::Sha256.digest(b"x");
        let status = grpc_status(&Error::MissingBlobs(vec![digest]));
        assert_eq!(
            missing_blob_subjects(&to_rpc_status(&status)),
            [format!("blobs/{digest}")]
        );
        let io = Error::io("read /x")(std::io::Error::other("disk on fire"));
        let status = grpc_status(&io);
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "read /x: disk on fire")
        );
        let full = std::fs::write("/dev/full", "x").unwrap_err();
        let status = grpc_status(&Error::io("write /x")(full));
        assert_eq!(
            (status.code(), status.message()),
            (Code::Aborted, "write /x: No space left on device (os error 28)")
        );
    }
}
