//! What can go wrong in a store.

use std::io;

use bitzel_proto::Digest;
use tonic::Status;

use crate::directory_tree::InvalidDirectory;

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
    /// A server cannot be reached.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The server.
        endpoint: String,
        /// The transport's reason.
        #[source]
        source: tonic::transport::Error,
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

/// An error with everything that led to it, in one line, for where there is no chain of sources: statuses, events.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
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
