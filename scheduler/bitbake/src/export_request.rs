//! Request for an export.

use serde::Serialize;

/// Targets to build, in the terms of `BitBake`'s command line.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportRequest {
    /// Targets: `TARGET`, `TARGET:do_TASK`, `mc:CONFIGURATION:TARGET`, `virtual/…`.
    pub targets: Vec<String>,
    /// The task for targets that do not name one (`-c`); `None` for the metadata's default.
    pub task: Option<String>,
    /// Tasks to run for every recipe in the targets' graph that has them (`--runall`).
    pub run_all: Vec<String>,
    /// Tasks of the targets' graph to run, with their dependencies, and no others (`--runonly`).
    pub run_only: Vec<String>,
    /// Runs the targets' tasks even if they have results (`-f`).
    pub force: bool,
    /// Further tasks of the targets to run even if they have results (`-C`), separated by commas.
    pub invalidate: Option<String>,
}

impl ExportRequest {
    /// True if every export gives other signatures: `BitBake` taints forced tasks with a random number.
    pub(crate) fn is_unrepeatable(&self) -> bool {
        self.force || self.invalidate.is_some()
    }
}
