//! Errors of the configuration of access.

use std::io;

/// Reasons why callers cannot be told apart as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, or a file that it names, is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// A file cannot be read.
    #[error("{context}")]
    Io {
        /// The operation, with the path.
        context: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The keys of tokens cannot be fetched.
    #[error("{context}")]
    Keys {
        /// The request, with the address.
        context: String,
        /// The client's reason.
        #[source]
        source: reqwest::Error,
    },
}

impl Error {
    /// For `map_err`: an input or output error with the operation that failed.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}
