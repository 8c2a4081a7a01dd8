//! Why a build, or one task of it, did not succeed.

use std::io;
use std::path::PathBuf;

use bitzel_proto::google;
use bitzel_proto::missing_blobs::{missing_blob_subjects, to_rpc_status};
use tonic::Status;

use crate::plan::closure::InvalidGraph;
use crate::plan::input_root::InputRootError;
use crate::plan::private_tree::PrivateTreeError;
use crate::plan::task_result::MalformedResult;
use crate::plan::tree::TreeError;

/// Why a build, or one task of it, did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The exported graph is not usable.
    #[error("the task graph is not usable")]
    Graph(#[from] InvalidGraph),
    /// The store or the action cache failed.
    #[error("{context}")]
    Store {
        /// What for.
        context: String,
        /// Its reason.
        #[source]
        source: Box<bitzel_cas::Error>,
    },
    /// The Execution service did not run the Action, or could not say what came of it.
    #[error("executing {task}")]
    Execution {
        /// The task.
        task: String,
        /// The service's answer.
        #[source]
        source: Box<Status>,
    },
    /// Blobs that were there when they were looked up are gone: evicted, or lost by the store.
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
    /// The task succeeded without leaving what it should.
    #[error("{task} did not make its output {path}")]
    MissingOutput {
        /// The task.
        task: String,
        /// Relative to /work.
        path: String,
    },
    /// Two tasks of one recipe do not go together.
    #[error("the work trees of tasks that {task} needs do not go together")]
    PrivateTree {
        /// The task.
        task: String,
        /// Which path, which tasks.
        #[source]
        source: PrivateTreeError,
    },
    /// Two components do not go together.
    #[error("the inputs of {task} do not go together")]
    InputRoot {
        /// The task.
        task: String,
        /// Which path, which recipes.
        #[source]
        source: InputRootError,
    },
    /// A result names things that are not there.
    #[error("the outputs of {task} are not usable")]
    Outputs {
        /// The task.
        task: String,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// A result is malformed.
    #[error("the result of {task} is not usable")]
    Result {
        /// The task.
        task: String,
        /// What is wrong.
        #[source]
        source: MalformedResult,
    },
    /// Nobody of that name.
    #[error(
        "no task {0} in the last graph; name it RECIPE:TASK, for example zlib:do_compile, and build it first"
    )]
    NoSuchTask(String),
    /// No log is kept.
    #[error("no log of {0} in the store: it has not run under its present signature, or the log was evicted")]
    NoLog(String),
    /// Results of two tasks cannot be placed side by side.
    #[error("{path} is {what} in the result of {task} and {other_what} in that of {other_task}")]
    OutputConflict {
        /// Relative to where results are placed.
        path: String,
        /// What one makes of it.
        what: &'static str,
        /// Which one.
        task: String,
        /// What the other makes of it.
        other_what: &'static str,
        /// Which one.
        other_task: String,
    },
    /// Writing on this machine failed.
    #[error("writing {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// Whether making the inputs again can help.
    pub(super) fn is_lost_input(&self) -> bool {
        match self {
            Self::InputsLost { .. } => true,
            Self::Store { source, .. } => matches!(**source, bitzel_cas::Error::NotFound(_)),
            _ => false,
        }
    }

    /// An Execution that did not come about, for the reason that the service gave.
    pub(super) fn execution(task: &str, status: Status) -> Self {
        Self::inputs_lost(task, &to_rpc_status(&status)).unwrap_or_else(|| Self::Execution {
            task: task.to_owned(),
            source: Box::new(status),
        })
    }

    /// The error when a status names blobs that are not there; `None` when it says nothing of the kind.
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

    /// For `map_err`: a failed write.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
