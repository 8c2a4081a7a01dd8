//! Errors of the configuration of access.

use std::io;

/// Reasons why access cannot be controlled as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, or a file that it names, is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// A file cannot be read.
    #[error("{context}")]
    Io {
        /// The operation that failed, with the path.
        context: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The keys of tokens cannot be fetched.
    #[error("{context}")]
    Keys {
        /// The request that failed, with the address.
        context: String,
        /// The client's reason.
        #[source]
        source: reqwest::Error,
    },
}

impl Error {
    /// Adds the operation that failed to an input or output error, for `map_err`.
    pub(crate) fn io(context: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            context: context(),
            source,
        }
    }
}
