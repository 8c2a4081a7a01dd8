//! Errors of a build or of one of its tasks.

use std::io;
use std::path::PathBuf;

use bitzel_proto::google;
use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
use tonic::Status;

use crate::plan::input_root::InputRootError;
use crate::plan::private_tree::PrivateTreeError;
use crate::plan::task_index::InvalidGraph;
use crate::plan::task_result::MalformedResult;
use crate::plan::tree::TreeError;

/// Error of a build or of one of its tasks.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The exported graph is malformed.
    #[error("the task graph is malformed")]
    Graph(#[from] InvalidGraph),
    /// The store or the action cache failed.
    #[error("{context}")]
    Store {
        /// The purpose of the call.
        context: String,
        /// The store's error.
        #[source]
        source: Box<bitzel_cas::Error>,
    },
    /// The Execution service did not run the Action, or did not report its result.
    #[error("the server did not execute {task}")]
    Execution {
        /// The task.
        task: String,
        /// The service's answer.
        #[source]
        source: Box<Status>,
    },
    /// Blobs that existed when they were looked up are gone: evicted, or lost by the store.
    #[error("inputs of {task} are no longer in the store: {blobs}")]
    InputsLost {
        /// The task that needs them.
        task: String,
        /// Their names, as the server gave them.
        blobs: String,
    },
    /// The task itself failed.
    #[error("{task} failed with exit code {exit_code}")]
    TaskFailed {
        /// The task.
        task: String,
        /// Of the runner.
        exit_code: i32,
        /// The end of its log.
        log: String,
    },
    /// The task succeeded without one of its outputs.
    #[error("{task} succeeded, but did not create its output {path}")]
    MissingOutput {
        /// The task.
        task: String,
        /// Relative to /work.
        path: String,
    },
    /// Two tasks of one recipe left conflicting work trees.
    #[error("the work trees of tasks that {task} needs conflict")]
    PrivateTree {
        /// The task.
        task: String,
        /// The path and the tasks.
        #[source]
        source: PrivateTreeError,
    },
    /// Two components conflict.
    #[error("the inputs of {task} conflict")]
    InputRoot {
        /// The task.
        task: String,
        /// The path and the recipes.
        #[source]
        source: InputRootError,
    },
    /// The outputs of a task are malformed or incomplete.
    #[error("the outputs of {task} are not usable")]
    Outputs {
        /// The task.
        task: String,
        /// The defect.
        #[source]
        source: TreeError,
    },
    /// A result is malformed.
    #[error("the result of {task} is malformed")]
    Result {
        /// The task.
        task: String,
        /// The defect.
        #[source]
        source: MalformedResult,
    },
    /// The last graph has no task of this name.
    #[error(
        "no task {0} in the last graph; name it RECIPE:TASK, for example zlib:do_compile, and build it first"
    )]
    NoSuchTask(String),
    /// The store has no log of the task.
    #[error(
        "no log of {0} in the store: the task has not run under its present signature, or the log was evicted; build \
         the task again with -f"
    )]
    NoLog(String),
    /// Results of two tasks cannot be placed side by side.
    #[error("{path} is {what} in the result of {task} and {other_what} in that of {other_task}")]
    OutputConflict {
        /// Relative to the output directory.
        path: String,
        /// Type of the file in one result.
        what: &'static str,
        /// Task of the one result.
        task: String,
        /// Type of the file in the other result.
        other_what: &'static str,
        /// Task of the other result.
        other_task: String,
    },
    /// A shared state cache has no archive that may be used for a task, although a search found one.
    #[error("the shared state archive of {task} is gone, or its signature is not valid")]
    NoArchive {
        /// The task.
        task: String,
    },
    /// A shared state cache could not be asked.
    #[error("cannot fetch the shared state archive of {task}")]
    SharedState {
        /// The task.
        task: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Input or output on this machine failed.
    #[error("cannot read or write {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// True if building the inputs again can help.
    pub(super) fn is_lost_input(&self) -> bool {
        match self {
            Self::InputsLost { .. } => true,
            Self::Store { source, .. } => matches!(**source, bitzel_cas::Error::NotFound(_)),
            _ => false,
        }
    }

    /// True if blobs of a result are absent from the store, or have other bytes than their digests say.
    pub(crate) fn is_lost_output(&self) -> bool {
        match self {
            Self::Store { source, .. } => matches!(
                **source,
                bitzel_cas::Error::NotFound(_) | bitzel_cas::Error::DigestMismatch { .. }
            ),
            _ => false,
        }
    }

    /// Error for a failed call of the Execution service.
    pub(super) fn execution(task: &str, status: Status) -> Self {
        Self::inputs_lost(task, &to_rpc_status(&status)).unwrap_or_else(|| Self::Execution {
            task: task.to_owned(),
            source: Box::new(status),
        })
    }

    /// Error for a status that names missing blobs; `None` for any other status.
    pub(super) fn inputs_lost(task: &str, status: &google::rpc::Status) -> Option<Self> {
        let missing = missing_blob_subjects(status);
        (!missing.is_empty()).then(|| Self::InputsLost {
            task: task.to_owned(),
            blobs: missing.join(" "),
        })
    }

    /// For `map_err`: a failed store call.
    pub(crate) fn store(context: impl Into<String>) -> impl FnOnce(bitzel_cas::Error) -> Self {
        let context = context.into();
        move |source| Self::Store {
            context,
            source: Box::new(source),
        }
    }

    /// For `map_err`: failed input or output on this machine.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
