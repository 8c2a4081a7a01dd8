//! Events of a build, for displays and for programs.

use serde::Serialize;
use tonic::{Code, Status};

use super::schedule::Completion;

/// Outcome of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The task was executed.
    Ran,
    /// The task would be executed: no result was found in a dry run.
    WouldRun,
    /// A result was found under the task's signature.
    Hit,
    /// The result was restored from an archive of a shared state cache.
    Restored,
    /// Early cut-off: the tasks below were executed and left the same outputs, so an earlier result is valid.
    CutOff,
    /// The task has nothing to do.
    Noexec,
    /// The task failed.
    Failed,
}

impl From<Completion> for Outcome {
    fn from(completion: Completion) -> Self {
        match completion {
            Completion::SignatureHit => Self::Hit,
            Completion::Restored => Self::Restored,
            Completion::EarlyCutOff => Self::CutOff,
            Completion::Ran => Self::Ran,
            Completion::WouldRun => Self::WouldRun,
            Completion::NoExec => Self::Noexec,
        }
    }
}

/// Condition of a server that does not execute an Action for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerCondition {
    /// No connection, or the connection broke.
    Unreachable,
    /// The server has no room for more calls or Actions.
    Overloaded,
    /// The server answers with an error of its own.
    Failing,
}

impl ServerCondition {
    /// Condition of the server after a failed call. `None` if the same call would get the same answer.
    pub fn of_status(status: &Status) -> Option<Self> {
        // A status with a source was made on this side, of an error of the transport.
        let is_broken = std::error::Error::source(status).is_some();
        match status.code() {
            Code::Unknown | Code::Internal if is_broken => Some(Self::Unreachable),
            Code::Unavailable | Code::Cancelled => Some(Self::Unreachable),
            Code::ResourceExhausted => Some(Self::Overloaded),
            Code::Unknown | Code::Internal => Some(Self::Failing),
            _ => None,
        }
    }
}

/// Event of a build. Events come in the order in which things happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// The execution of a task begins.
    TaskStarted {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
    },
    /// A task that was started waits: results that it needs are gone from the store and are built again.
    TaskPostponed {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
        /// The blobs that are gone.
        reason: String,
    },
    /// Outputs of a finished task are gone from the store, or are wrong there. The task runs again.
    OutputsLost {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
        /// One of the blobs.
        reason: String,
    },
    /// The server does not execute a task for now. The build tries again after a pause.
    ExecutionInterrupted {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
        /// Condition of the server.
        condition: ServerCondition,
        /// Innermost cause, for example `Connection refused`.
        reason: String,
        /// Pause before the next try.
        retry_milliseconds: u64,
    },
    /// The server answers again for a task whose execution was interrupted. Without it, the task fails.
    ExecutionResumed {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
    },
    /// A task ended.
    TaskFinished {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_compile`.
        task: String,
        /// Outcome of the task.
        outcome: Outcome,
        /// Wall time of this build's execution; 0 where nothing was executed.
        milliseconds: u64,
        /// For failures: the error and its causes in one line.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// For failures of a remote call: the status code of the answer.
        #[serde(skip)]
        status: Option<Code>,
        /// For failures: the end of the task's log.
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<String>,
    },
    /// A shared state cache was asked for the archives of all tasks that could be restored.
    SharedStateSearched {
        /// Counts, in BitBake's words.
        summary: String,
    },
    /// An archive of a shared state cache cannot be used. The task is executed instead.
    RestoreFailed {
        /// Recipe: PN, or `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// Name of the task, for example `do_populate_sysroot`.
        task: String,
        /// The error and its causes in one line.
        reason: String,
    },
    /// Progress of the build.
    Progress {
        /// Tasks done.
        done: usize,
        /// Tasks that the build needs, as far as it is known by now.
        wanted: usize,
        /// Tasks being executed.
        running: usize,
    },
    /// The build is over.
    Summary(Summary),
}

/// Summary of a build.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Tasks executed successfully.
    pub tasks_run: usize,
    /// Tasks that would be executed. 0 unless the build is a dry run, and then an upper bound: equal outputs can make some
    /// of them unnecessary.
    pub would_run: usize,
    /// Tasks found under their signature.
    pub signature_hits: usize,
    /// Tasks whose results were restored from archives of a shared state cache.
    pub restored: usize,
    /// Tasks that an early cut-off made unnecessary.
    pub early_cut_offs: usize,
    /// Tasks that failed.
    pub failed: usize,
    /// Tasks that were not tried because tasks that they need failed.
    pub skipped: usize,
    /// Bytes that this client uploaded.
    pub bytes_uploaded: u64,
    /// Bytes that this client downloaded.
    pub bytes_downloaded: u64,
    /// Wall time of the build without the front end, in seconds.
    pub seconds: f64,
    /// Wall time of the critical path, in seconds.
    pub critical_path_seconds: f64,
    /// The critical path: the chain of executed tasks that took longest, first task first.
    pub critical_path: Vec<String>,
}
