//! What can go wrong in a store.

use std::io;

use bitzel_proto::Digest;
use tonic::Status;

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

impl Error {
    /// For `map_err`: an input or output error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
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
