//! Errors of connections.

use std::io;

use tonic::Code;

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
    /// The server does not answer, or not as a gRPC server.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The server's address.
        endpoint: String,
        /// The transport's reason.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Error {
    /// True if the same call may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// The gRPC status code for a client of this process.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::Io { .. } => Code::Internal,
            Self::Connect { .. } => Code::Unavailable,
        }
    }
}
