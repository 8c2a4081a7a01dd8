//! Statuses that name missing blobs, so that a client can upload them and try again.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt};

use crate::digest::Digest;
use crate::google;

/// Type of the precondition violations that name missing blobs.
const MISSING_VIOLATION_TYPE: &str = "MISSING";

/// Name of a blob in `PreconditionFailure` violations: `blobs/[blake3/]{hash}/{size}`, never with the instance name (`remote_execution.proto`, `Execute`).
fn subject(digest: &Digest) -> String {
    match digest.function().resource_segment() {
        Some(function) => format!("blobs/{function}/{digest}"),
        None => format!("blobs/{digest}"),
    }
}

/// Creates a status `FAILED_PRECONDITION` with one `MISSING` violation for each blob.
pub fn missing_blobs_status(digests: &[Digest]) -> Status {
    let violations = digests.iter().map(|digest| {
        let advice = "the blob is not in the content-addressable store; upload it and try again";
        PreconditionViolation::new(MISSING_VIOLATION_TYPE, subject(digest), advice)
    });
    let message = match digests {
        [digest] => format!("blob {digest} is missing from the content-addressable store"),
        _ => format!(
            "{} blobs are missing from the content-addressable store",
            digests.len()
        ),
    };
    let details = ErrorDetails::with_precondition_failure(violations.collect::<Vec<_>>());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// Converts a gRPC status, with its details, into the `google.rpc.Status` of an `ExecuteResponse`.
pub fn to_rpc_status(status: &Status) -> google::rpc::Status {
    google::rpc::Status::decode(status.details())
        .ok()
        .filter(|decoded| decoded.code != 0)
        .unwrap_or_else(|| google::rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: vec![],
        })
}

/// Subjects (`blobs/…`) of the `MISSING` violations in a status; empty for a status without such violations.
pub fn missing_blob_subjects(status: &google::rpc::Status) -> Vec<String> {
    let encoded = status.encode_to_vec();
    let status = Status::with_details(
        Code::from_i32(status.code),
        status.message.clone(),
        encoded.into(),
    );
    let failure = status.get_details_precondition_failure();
    let violations = failure.into_iter().flat_map(|failure| failure.violations);
    violations
        .filter(|violation| violation.r#type == MISSING_VIOLATION_TYPE)
        .map(|violation| violation.subject)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest_function::DigestFunction;

    #[test]
    fn missing_blobs_are_named_without_instance() {
        let sha256 = DigestFunction::Sha256.digest(b"a");
        let blake3 = DigestFunction::Blake3.digest(b"b");
        let status = to_rpc_status(&missing_blobs_status(&[sha256, blake3]));
        assert_eq!(status.code, Code::FailedPrecondition as i32);
        let subjects = missing_blob_subjects(&status);
        assert_eq!(
            subjects,
            [format!("blobs/{sha256}"), format!("blobs/blake3/{blake3}")]
        );
    }

    #[test]
    fn a_status_without_details_keeps_code_and_message() {
        let status = to_rpc_status(&Status::not_found("no such action"));
        assert_eq!(
            (status.code, status.message.as_str()),
            (Code::NotFound as i32, "no such action")
        );
        assert!(missing_blob_subjects(&status).is_empty());
    }
}
