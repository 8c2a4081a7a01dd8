//! Errors of a worker.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitzel_proto::{Digest, InvalidDigest};
use rustix::io::Errno;

use crate::bounds::{BoundReached, size};
use crate::file_cache::FileKey;

/// The reason why an Action did not run, or why its result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Blobs that the Action needs are not in the store.
    #[error("{} blobs of the input are not in the store, the first is {:?}", .0.len(), .0.first())]
    MissingBlobs(Vec<Digest>),
    /// The Action, its Command or its input root violates the Remote Execution API.
    #[error("{0}")]
    InvalidAction(String),
    /// A digest inside the Action is malformed.
    #[error("{field}: {source}")]
    InvalidDigest {
        /// Message and field.
        field: &'static str,
        /// The defect.
        #[source]
        source: InvalidDigest,
    },
    /// The input root cannot be assembled.
    #[error("the input root cannot be used")]
    InvalidInputRoot(#[source] bitzel_cas::Error),
    /// The command left a file that cannot be an output.
    #[error("output {path:?} {reason}")]
    InvalidOutput {
        /// Path relative to the input root.
        path: String,
        /// Rule that it violates.
        reason: String,
    },
    /// The outputs make the result too large for a message to the scheduler.
    #[error(
        "the result takes {} or more, with paths and targets of symlinks, which is too much for a message to the \
         scheduler; {}declare a directory in place of many outputs, or shorten paths and targets",
        size(*.bytes), named(.outputs)
    )]
    ResultTooLarge {
        /// Size in bytes that it has at least.
        bytes: u64,
        /// Starts of the paths of the largest outputs.
        outputs: Vec<String>,
    },
    /// The command wrote outside its declared outputs.
    #[error("the command wrote outside its declared outputs: {}", listed(.paths, *.count))]
    UndeclaredWrites {
        /// The first paths, relative to the input root, sorted.
        paths: BTreeSet<String>,
        /// Number of all paths.
        count: u64,
    },
    /// The Action needs more than a bound of this worker allows.
    #[error("{0}")]
    BoundReached(BoundReached),
    /// This worker has too little of something for any Action. Another worker may have more.
    #[error("this worker has too few resources: {0}")]
    Exhausted(String),
    /// A file of the cache that this Action needs is not on disk.
    #[error("the cached file files/{0} is lost")]
    LostFile(FileKey),
    /// The command ran longer than its timeout.
    #[error("the command was killed after its timeout of {0:?}")]
    TimedOut(Duration),
    /// The inputs were not in place in time.
    #[error(
        "the inputs were not in place after {}, which this worker allows; if the Action needs more, raise `input_time` of \
         [execution.bounds], or --action-input-time of the worker", humantime::format_duration(*.0)
    )]
    InputsTimedOut(Duration),
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
        /// The step that failed, and its error.
        reason: String,
        /// Programs to install or settings to change.
        advice: String,
    },
    /// The root file system of this machine has no identity.
    #[error("the root file system of this machine cannot be identified: {0}")]
    UnknownRoot(String),
    /// Another process uses the cache directory or the scratch directory.
    #[error("{} is in use by another worker; give each worker directories of its own", .0.display())]
    DirectoryInUse(PathBuf),
    /// Other users own the scratch directory or can write to it.
    #[error("{} belongs to others or can be written to by them; give the worker a directory of its own", .0.display())]
    SharedDirectory(PathBuf),
    /// The store refused or failed.
    #[error("the store failed")]
    Store(#[from] bitzel_cas::Error),
    /// Input or output on this machine failed.
    #[error("{context}")]
    Io {
        /// The operation, with the path.
        context: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

/// Errors of the system that say that this machine, or the worker's user, has no more of something.
const EXHAUSTED: [Errno; 7] = [
    Errno::AGAIN,
    Errno::NOMEM,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::NOBUFS,
];

/// True if the number of an error of the system means that something is used up.
pub(crate) fn is_exhaustion(errno: i32) -> bool {
    EXHAUSTED.iter().any(|error| error.raw_os_error() == errno)
}

/// Number of paths that a message names. It only counts further ones.
pub(crate) const MAX_LISTED_PATHS: usize = 20;

fn listed(paths: &BTreeSet<String>, count: u64) -> String {
    let listed: Vec<&str> = paths.iter().map(String::as_str).collect();
    let listed = listed.join(", ");
    match count.saturating_sub(paths.len() as u64) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

fn named(outputs: &[String]) -> String {
    if outputs.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = outputs.iter().map(|path| format!("{path:?}")).collect();
    format!("its largest outputs are {}; ", quoted.join(", "))
}

impl Error {
    /// True if this machine had too little memory, disk space, file descriptors or the like. The Action is not to blame.
    pub fn is_exhaustion(&self) -> bool {
        match self {
            Self::Exhausted(_) => true,
            Self::Io { source, .. } => source.raw_os_error().is_some_and(is_exhaustion),
            _ => false,
        }
    }

    /// True if the disk, or the quota of the worker's user, was full.
    pub fn is_full_disk(&self) -> bool {
        let full = [Errno::NOSPC, Errno::DQUOT];
        matches!(self, Self::Io { source, .. }
            if full.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())))
    }

    /// For `map_err`: an input or output error with the operation that failed.
    pub fn io<E: Into<io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            context: operation.into(),
            source: source.into(),
        }
    }

    /// For `map_err`: an input or output error of the operation `verb` on `path`.
    pub fn io_at<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            context: format!("{verb} {}", path.display()),
            source: source.into(),
        }
    }

    /// For `map_err`: an error of the fetch of the input root, which is the fault of the client or of the store.
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
