//! What a build tells while it runs.

use serde::Serialize;

use super::schedule::Completion;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Executed.
    Ran,
    /// Found under its signature.
    Hit,
    /// Found after all, because what was rebuilt below it came out the same.
    CutOff,
    /// Had nothing to do.
    Noexec,
    /// Failed.
    Failed,
}

impl From<Completion> for Outcome {
    fn from(completion: Completion) -> Self {
        match completion {
            Completion::SignatureHit => Self::Hit,
            Completion::EarlyCutOff => Self::CutOff,
            Completion::Ran => Self::Ran,
            Completion::NoExec => Self::Noexec,
        }
    }
}

/// What a build tells while it runs, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A task is being executed.
    TaskStarted {
        /// PN; `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// `do_compile`, for example.
        task: String,
    },
    /// A task that was started has to wait: results that it needs are gone from the store and are made again.
    TaskPostponed {
        /// PN; `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// `do_compile`, for example.
        task: String,
        /// What is gone.
        reason: String,
    },
    /// A task ended.
    TaskFinished {
        /// PN; `mc:CONFIG:PN` for a multiconfig that is not the default one.
        recipe: String,
        /// `do_compile`, for example.
        task: String,
        /// How.
        outcome: Outcome,
        /// Wall time of this build's execution; 0 where nothing was executed.
        milliseconds: u64,
        /// For failures: the causes, one below the other.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// For failures: the end of the task's log.
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<String>,
    },
    /// How far the build is.
    Progress {
        /// Tasks done.
        done: usize,
        /// Tasks that are known to be needed so far.
        wanted: usize,
        /// Tasks being executed.
        running: usize,
    },
    /// The build is over.
    Summary(Summary),
}

/// What a build did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Tasks executed successfully.
    pub tasks_run: usize,
    /// Tasks found under their signature.
    pub signature_hits: usize,
    /// Tasks found because of equal outputs below them.
    pub early_cut_offs: usize,
    /// Tasks that failed.
    pub failed: usize,
    /// Tasks not tried because of those.
    pub skipped: usize,
    /// Bytes that this client put into the store.
    pub bytes_uploaded: u64,
    /// Bytes that this client took out of the store.
    pub bytes_downloaded: u64,
    /// Wall time of the build without the export.
    pub seconds: f64,
    /// Wall time of the longest chain of executed tasks.
    pub critical_path_seconds: f64,
    /// That chain, first task first.
    pub critical_path: Vec<String>,
}
