//! Errors of stores and action caches.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use bitzel_proto::{Digest, InvalidDirectory};
use tonic::{Code, Status};

/// Failure of a call to a store or an action cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Absent blob.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// Bytes with another digest than the blob's. Nothing was stored.
    #[error("the data is not that of {expected}: it is {actual}")]
    DigestMismatch {
        /// Digest that the writer announced, or the reader asked for.
        expected: Digest,
        /// Digest of the bytes. If there are too many bytes, of those up to the first one too many.
        actual: Digest,
    },
    /// Read beyond the end of a blob.
    #[error("offset {offset} is beyond the end of {digest}")]
    OffsetOutOfRange {
        /// Digest of the blob.
        digest: Digest,
        /// Offset asked for.
        offset: u64,
    },
    /// Lack of space for a blob, even after the eviction of all that may be evicted.
    #[error("no space for {digest}: {reason}")]
    NoSpace {
        /// Digest of the blob that was refused.
        digest: Digest,
        /// Limit that was reached, with numbers.
        reason: String,
    },
    /// Invalid request.
    #[error("{0}")]
    InvalidArgument(String),
    /// Directory message that no tree may hold.
    #[error("directory {digest} is not valid")]
    InvalidDirectory {
        /// Digest of the Directory.
        digest: Digest,
        /// Rule that the Directory breaks.
        #[source]
        source: InvalidDirectory,
    },
    /// Tree beyond the limits of [`crate::directory_tree`].
    #[error("the tree of {root} has {what}")]
    TreeTooLarge {
        /// Digest of the tree's root Directory.
        root: Digest,
        /// Limit that the tree exceeds, with numbers.
        what: String,
    },
    /// Failure of input or output on this machine.
    #[error("{context}")]
    Io {
        /// Operation that failed, with the path.
        context: String,
        /// Reason given by the system.
        #[source]
        source: io::Error,
    },
    /// Refusal or failure of a remote store.
    #[error("{context}")]
    Remote {
        /// Call that failed, and the store that it went to.
        context: String,
        /// Status in the store's answer.
        #[source]
        source: Box<Status>,
    },
    /// Refusal or failure of a back end that does not speak gRPC (HTTP, S3).
    #[error("{context}")]
    BackEnd {
        /// Call that failed, and the store that it went to.
        context: String,
        /// Kind of the failure, by what a caller can do about it.
        failure: BackEndFailure,
        /// The back end's answer, or the failure of the connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Write to a store that only reads.
    #[error("{0} is read-only; write to the store that it is a view of")]
    ReadOnly(&'static str),
    /// A call, or a part of a stream, that took longer than the store's configuration allows.
    #[error("{context}: nothing within {} s, which is the limit", .limit.as_secs_f32())]
    Deadline {
        /// Operation that was waited for.
        context: String,
        /// Limit that was exceeded.
        limit: Duration,
    },
    /// Copy whose other end gave up before the blob was complete.
    #[error("the transfer of {0} was abandoned before its end")]
    Abandoned(Digest),
    /// Failure to set up the connection to a server.
    #[error(transparent)]
    Endpoint(#[from] bitzel_rpc::Error),
    /// Stored or received message that cannot be decoded.
    #[error("{context}")]
    Decode {
        /// Name of the message.
        context: String,
        /// Reason given by the decoder.
        #[source]
        source: bitzel_proto::message_memory::MessageError,
    },
}

/// Kinds of [`Error::BackEnd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackEndFailure {
    /// Unreachable, overloaded or broken for now: another attempt may succeed.
    Unavailable,
    /// Missing, wrong or insufficient credentials.
    Denied,
    /// Lack of space.
    Full,
    /// Violation of the protocol, or refusal of a request for another reason: another attempt is useless.
    Faulty,
}

/// True if the call that a status answers may succeed soon.
pub(crate) fn is_transient(status: &Status) -> bool {
    is_broken_connection(status)
        || matches!(
            status.code(),
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted
        )
}

/// True for the status of a call that no server has answered. It was made on this side, from an error of the transport,
/// with a code such as `CANCELLED` or `UNKNOWN`.
pub(crate) fn is_broken_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Constructors for `map_err`. They format `context` only if there is an error: pass a `&str` or `format_args!(…)`,
/// and a success costs no allocation.
impl Error {
    /// Makes an input or output error from the name of the failed operation.
    pub fn io(context: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            context: context.to_string(),
            source,
        }
    }

    /// Makes an error from a failed call of a back end that is not gRPC.
    pub fn back_end<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        context: impl Display,
        failure: BackEndFailure,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::BackEnd {
            context: context.to_string(),
            failure,
            source: source.into(),
        }
    }

    /// Makes an error from a failed gRPC call.
    pub fn remote(context: impl Display) -> impl FnOnce(Status) -> Self {
        move |source| Self::Remote {
            context: context.to_string(),
            source: Box::new(source),
        }
    }
}

impl Error {
    /// True if the error is about the blob or the request: every other store would answer the same, or another one
    /// may simply have the blob. All other errors are failures of the store itself.
    pub fn is_about_the_request(&self) -> bool {
        match self {
            Self::NotFound(_)
            | Self::DigestMismatch { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::InvalidArgument(_)
            | Self::InvalidDirectory { .. }
            | Self::TreeTooLarge { .. } => true,
            Self::Remote { source, .. } => source.code() == Code::InvalidArgument,
            _ => false,
        }
    }

    /// True if the same call may succeed soon: the server is unreachable or overloaded, or a connection broke. Only
    /// for calls that change nothing when they are made twice, which holds for all calls of stores.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::BackEnd { failure, .. } => *failure == BackEndFailure::Unavailable,
            Self::Remote { source, .. } => is_transient(source),
            Self::Endpoint(error) => error.is_transient(),
            Self::Deadline { .. } => true,
            _ => false,
        }
    }
}
