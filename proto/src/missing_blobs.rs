//! How a server says that blobs are not there, so that a client can upload them and try again.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt};

use crate::digest::Digest;
use crate::google;

const MISSING: &str = "MISSING";

/// The text by which `PreconditionFailure` violations name a blob: `blobs/[blake3/]{hash}/{size}`, never with
/// the instance name (`remote_execution.proto`, `Execute`).
fn subject(digest: &Digest) -> String {
    match digest.function().resource_segment() {
        Some(function) => format!("blobs/{function}/{digest}"),
        None => format!("blobs/{digest}"),
    }
}

/// `FAILED_PRECONDITION` with one `MISSING` violation for each blob.
pub fn missing_blobs_status(digests: &[Digest]) -> Status {
    let violations = digests.iter().map(|digest| {
        let advice = "the blob is not in the content-addressable store; upload it and try again";
        PreconditionViolation::new(MISSING, subject(digest), advice)
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

/// A gRPC status as the `google.rpc.Status` that `ExecuteResponse` carries, with its details.
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

/// The subjects (`blobs/…`) of the `MISSING` violations in a status; empty when it says nothing of the kind.
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
        .filter(|violation| violation.r#type == MISSING)
        .map(|violation| violation.subject)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest_function::DigestFunction;

    #[test]
    fn a_client_reads_back_what_is_missing_without_instance_name() {
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
