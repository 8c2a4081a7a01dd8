//! What can go wrong in a store.

use std::io;
use std::time::Duration;

use bitzel_proto::Digest;
use tonic::{Code, Status};

use bitzel_proto::InvalidDirectory;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not there.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The bytes are not those that the digest names. Nothing was stored.
    #[error("the data is not that of {expected}: it is {actual}")]
    DigestMismatch {
        /// What the writer announced, or the reader asked for.
        expected: Digest,
        /// What the bytes are. With too many bytes, the digest of those up to the first one too many.
        actual: Digest,
    },
    /// A read beyond the end of the blob.
    #[error("offset {offset} is beyond the end of {digest}")]
    OffsetOutOfRange {
        /// The blob.
        digest: Digest,
        /// The offset asked for.
        offset: u64,
    },
    /// The store has no room for the blob, even after evicting all that it may.
    #[error("no room for {digest}: {reason}")]
    NoSpace {
        /// The blob that was refused.
        digest: Digest,
        /// Which limit, with numbers.
        reason: String,
    },
    /// The request itself is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// A Directory that no tree may hold.
    #[error("directory {digest} is not valid")]
    InvalidDirectory {
        /// The Directory.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: InvalidDirectory,
    },
    /// A tree beyond the limits of [`crate::directory_tree`].
    #[error("the tree of {root} has {what}")]
    TreeTooLarge {
        /// Its root.
        root: Digest,
        /// Which limit, with numbers.
        what: String,
    },
    /// Input or output on this machine failed.
    #[error("{context}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A remote store refused or failed.
    #[error("{context}")]
    Remote {
        /// Which call to which store.
        context: String,
        /// Its answer.
        #[source]
        source: Box<Status>,
    },
    /// A back end that does not speak gRPC (HTTP, S3) refused or failed.
    #[error("{context}")]
    BackEnd {
        /// Which call to which store.
        context: String,
        /// What a caller can do about it.
        failure: BackEndFailure,
        /// Its answer, or what broke on the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store that only reads was asked to write.
    #[error("{0} is read-only; write to the store that it is a view of")]
    ReadOnly(&'static str),
    /// A call, or a part of a stream, took longer than the store's configuration allows.
    #[error("{context}: nothing within {} s, which is the limit", .limit.as_secs_f32())]
    Deadline {
        /// What was waited for.
        context: String,
        /// How long.
        limit: Duration,
    },
    /// The other end of a copy gave up before the blob was whole.
    #[error("the transfer of {0} was abandoned before its end")]
    Abandoned(Digest),
    /// The connection to a server cannot be made.
    #[error(transparent)]
    Endpoint(#[from] bitzel_rpc::Error),
    /// A stored or received message cannot be decoded.
    #[error("{context}")]
    Decode {
        /// Which message.
        context: String,
        /// The decoder's reason.
        #[source]
        source: prost::DecodeError,
    },
}

/// The kinds of [`Error::BackEnd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackEndFailure {
    /// Out of reach, overloaded or broken for now: another try may succeed.
    Unavailable,
    /// The credentials are missing, wrong or not enough.
    Denied,
    /// It has no room left.
    Full,
    /// It does what its protocol does not allow, or refused a request for another reason: trying again is useless.
    Faulty,
}

/// Whether the call that a status answers may succeed in a moment.
pub(crate) fn is_transient(status: &Status) -> bool {
    // A status with a source was made on this side, of what the transport reported.
    let broken = std::error::Error::source(status).is_some();
    broken
        || matches!(
            status.code(),
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted
        )
}

impl Error {
    /// For `map_err`: an input or output error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// For `map_err`: a failed call of a back end that is not gRPC.
    pub fn back_end<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        context: impl Into<String>,
        failure: BackEndFailure,
    ) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |source| Self::BackEnd {
            context,
            failure,
            source: source.into(),
        }
    }

    /// Whether this says something about the blob or the request, so that every other store would answer the same
    /// or another may simply have the blob; all else says that the store itself fails.
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

    /// Whether the same call may succeed in a moment: a server that is out of reach or overloaded, a connection that
    /// broke. For calls that change nothing when they are made twice, which is all that stores have.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::BackEnd { failure, .. } => *failure == BackEndFailure::Unavailable,
            Self::Remote { source, .. } => is_transient(source),
            Self::Endpoint(error) => error.is_transient(),
            Self::Deadline { .. } => true,
            _ => false,
        }
    }

    /// For `map_err`: a failed remote call.
    pub fn remote(context: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let context = context.into();
        move |source| Self::Remote {
            context,
            source: Box::new(source),
        }
    }
}
