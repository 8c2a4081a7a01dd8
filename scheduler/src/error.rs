//! What can go wrong between a client's request and a worker's result.

use std::time::Duration;

use bitzel_proto::{Digest, InvalidDigest, InvalidInstanceName};

use super::platform::Requirements;

/// Why the Execution service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The request names no instance that can exist.
    #[error(transparent)]
    InstanceName(#[from] InvalidInstanceName),
    /// A digest in the request, or in the Action, names no blob.
    #[error("{field}")]
    InvalidDigest {
        /// Where the digest stands.
        field: &'static str,
        /// What is wrong with it.
        source: InvalidDigest,
    },
    /// A blob that is no message of the kind that it should be.
    #[error("blob {digest} is not a valid {message}")]
    MalformedMessage {
        /// What it should be.
        message: &'static str,
        /// The blob.
        digest: Digest,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
    /// An Action or Command that is too large to be one.
    #[error("{message} {digest} is larger than the {limit} bytes that a {message} may have")]
    MessageTooLarge {
        /// What it should be.
        message: &'static str,
        /// The blob.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// The Action's timeout is no duration, or longer than what the server lets anybody run.
    #[error(
        "the Action's timeout {requested} is not between 0 s and the server's maximum of {} s; ask for less",
        maximum.as_secs()
    )]
    Timeout {
        /// What the Action asks for.
        requested: String,
        /// What the server allows.
        maximum: Duration,
    },
    /// Blobs that the Action needs are not in the store.
    #[error("{} blobs that the Action needs are missing", .0.len())]
    MissingBlobs(Vec<Digest>),
    /// The store failed.
    #[error("{context}")]
    Store {
        /// What was being done.
        context: &'static str,
        /// The store's reason.
        source: Box<bitzel_cas::Error>,
    },
    /// No operation has this name (any more).
    #[error(
        "no operation {0:?}: it never existed, was cancelled, or completed too long ago; execute it again"
    )]
    OperationNotFound(String),
    /// Too many Actions wait already.
    #[error("{limit} Actions are waiting for workers already; try again later")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// Nobody could run the Action.
    #[error(
        "no worker that could run the Action for {} s; it needs one that offers: {requirements}",
        waited.as_secs()
    )]
    NoWorker {
        /// What the Action asks for.
        requirements: Requirements,
        /// How long it waited.
        waited: Duration,
    },
    /// The Action was tried as often as allowed, and every time the worker was lost.
    #[error("gave up after {} attempts: {}", attempts.len(), attempts.join("; "))]
    AttemptsExhausted {
        /// What became of each attempt, with the worker's name.
        attempts: Vec<String>,
    },
    /// The server lost hold of the Action by a fault of its own.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The server stops.
    #[error("the server is shutting down; try again")]
    ShuttingDown,
    /// A worker does not keep to the protocol.
    #[error("worker protocol: {0}")]
    WorkerProtocol(&'static str),
}

impl ExecutionError {
    /// For `map_err`: which field held the digest.
    pub(super) fn invalid_digest(field: &'static str) -> impl FnOnce(InvalidDigest) -> Self {
        move |source| Self::InvalidDigest { field, source }
    }

    /// For `map_err`: what was being done when the store failed.
    pub(super) fn store(context: &'static str) -> impl FnOnce(bitzel_cas::Error) -> Self {
        move |source| match source {
            bitzel_cas::Error::NotFound(digest) => Self::MissingBlobs(vec![digest]),
            source => Self::Store {
                context,
                source: Box::new(source),
            },
        }
    }
}
