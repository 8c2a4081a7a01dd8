//! Errors of connections.

use std::io;

/// Reasons why a server cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or the credentials are wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// A file of credentials cannot be read.
    #[error("{context}")]
    Io {
        /// The operation, with the path.
        context: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The server does not answer, or not as one of its kind.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The server.
        endpoint: String,
        /// The transport's reason.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Error {
    /// For `map_err`: an input or output error with the operation that failed.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// True if the same call may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}
