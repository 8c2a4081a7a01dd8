//! What can go wrong on a worker.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bitzel_proto::{Digest, InvalidDigest};

/// Why an Action did not run, or why its result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Blobs that the Action needs are not in the store.
    #[error("{} blobs of the input are not in the store, the first is {:?}", .0.len(), .0.first())]
    MissingBlobs(Vec<Digest>),
    /// The Action, its Command or its input root breaks the rules of the Remote Execution API.
    #[error("{0}")]
    InvalidAction(String),
    /// A digest inside the Action is malformed.
    #[error("{field}: {source}")]
    InvalidDigest {
        /// Which field of which message.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidDigest,
    },
    /// The input root is none that could be laid out.
    #[error("the input root cannot be used")]
    InvalidInputRoot(#[source] bitzel_cas::Error),
    /// The command left something that cannot be an output.
    #[error("output {path:?} {reason}")]
    InvalidOutput {
        /// Path relative to the input root.
        path: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// The command wrote where it had not announced to write.
    #[error("the command wrote outside its declared outputs: {}", listed(.paths))]
    UndeclaredWrites {
        /// Paths relative to the input root, sorted.
        paths: Vec<String>,
    },
    /// The command ran longer than its Action allows.
    #[error("the command was killed after its timeout of {0:?}")]
    TimedOut(Duration),
    /// The scheduler took the Action back, or the worker shuts down.
    #[error("the execution was cancelled")]
    Cancelled,
    /// The command itself could not be started.
    #[error("the command cannot be started: {0}")]
    CommandNotStarted(String),
    /// Namespaces, overlay or bubblewrap failed on this worker.
    #[error("the sandbox failed: {0}")]
    Sandbox(String),
    /// This machine cannot run sandboxes at all.
    #[error("this machine cannot run sandboxes: {reason}\n{advice}")]
    SandboxUnavailable {
        /// What was tried and how it failed.
        reason: String,
        /// What to install or to set.
        advice: String,
    },
    /// Another process uses the cache directory, or the one of the changes of Actions.
    #[error("{} is in use by another worker; give each worker directories of its own", .0.display())]
    CacheInUse(PathBuf),
    /// A directory that is to be the worker's alone is not.
    #[error("{} belongs to others or can be written to by them; give the worker a directory of its own", .0.display())]
    SharedDirectory(PathBuf),
    /// The store refused or failed.
    #[error("the store failed")]
    Store(#[from] bitzel_cas::Error),
    /// Input or output on this machine failed.
    #[error("{context}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// How many paths a message names before it only counts.
const LISTED_PATHS: usize = 20;

fn listed(paths: &[String]) -> String {
    let listed = paths[..paths.len().min(LISTED_PATHS)].join(", ");
    match paths.len().saturating_sub(LISTED_PATHS) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

impl Error {
    /// For `map_err`: an input or output error with what was being done.
    pub fn io<E: Into<io::Error>>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |source| Self::Io {
            context,
            source: source.into(),
        }
    }

    /// For `map_err`: fetching the input root failed, which is the client's fault or the store's.
    pub fn input_root(error: bitzel_cas::Error) -> Self {
        use bitzel_cas::Error::{Decode, InvalidDirectory, TreeTooLarge};
        match error {
            Decode { .. } | InvalidDirectory { .. } | TreeTooLarge { .. } => Self::InvalidInputRoot(error),
            error => Self::Store(error),
        }
    }

    /// For `map_err`: a malformed digest in `field`.
    pub fn digest(field: &'static str) -> impl FnOnce(InvalidDigest) -> Self {
        move |source| Self::InvalidDigest { field, source }
    }
}
