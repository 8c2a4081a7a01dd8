//! Batches of small blobs, over `BatchReadBlobs` and `BatchUpdateBlobs`.

mod read;
mod write;

use std::collections::HashMap;

use bitzel_proto::google::rpc;
use bitzel_proto::{Digest, DigestFunction, reapi};
use tonic::{Code, Status};

use super::{DIGEST_OVERHEAD_BYTES, RemoteBlobStore};
use crate::batching::{BatchLimits, batches};
use crate::error::is_transient;

/// Message for a blob that the answer to a batch does not contain. A server has to answer for every blob of a batch
/// (`remote_execution.proto`).
const NO_ANSWER: &str = "the store's answer does not contain this blob";

/// Answers for the blobs of some requests. They contain a status instead of an error because one blob may be requested
/// twice and errors cannot be cloned.
type Answers<T> = HashMap<Digest, Result<T, Status>>;

impl RemoteBlobStore {
    /// True if a blob is small enough for a batch.
    fn fits(&self, digest: Digest) -> bool {
        digest.size_bytes().saturating_add(DIGEST_OVERHEAD_BYTES) <= self.capabilities.batch_limit
    }

    /// Divides blobs, each of which fits, into batches.
    fn divide<T>(&self, blobs: Vec<T>, digest: impl Fn(&T) -> Digest) -> Vec<Vec<T>> {
        let limits = BatchLimits {
            items: usize::MAX,
            bytes: self.capabilities.batch_limit,
        };
        batches(blobs, limits, |blob| {
            digest(blob).size_bytes() + DIGEST_OVERHEAD_BYTES
        })
    }
}

/// Digest in a response. `None` if it is malformed, because then no request had it.
fn answered(function: DigestFunction, digest: Option<&reapi::Digest>) -> Option<Digest> {
    Digest::from_wire_field(function, digest).ok()
}

fn to_result(status: Option<rpc::Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => Err(Status::new(Code::from_i32(status.code), status.message)),
        _ => Ok(()),
    }
}

/// Digests whose requests failed and may succeed if they are repeated.
fn transient_failures<T>(answers: &Answers<T>) -> Vec<Digest> {
    let failed = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().err().is_some_and(is_transient));
    failed.map(|(digest, _)| *digest).collect()
}

fn all_failed<T>(digests: &[Digest], status: &Status) -> Answers<T> {
    digests
        .iter()
        .map(|digest| (*digest, Err(status.clone())))
        .collect()
}
