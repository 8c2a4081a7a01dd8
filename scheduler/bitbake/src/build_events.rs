//! Events of `BitBake`'s server at the start and at the end of a build, for the metadata's event handlers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use crate::sandbox_program::SandboxProgram;

/// Program that fires the events: `build_events.py` in its sandbox.
#[derive(Debug, Clone)]
pub struct BuildEventsProgram {
    pub(crate) program: SandboxProgram,
    pub(crate) settings: Value,
    /// Directory that handlers see as the build directory.
    pub(crate) directory: PathBuf,
}

/// End of a build, as its event handlers learn it.
#[derive(Debug, Clone, Copy)]
pub struct BuildEnd {
    /// Number of tasks in the run queue.
    pub tasks: usize,
    /// Number of failed tasks.
    pub failed: usize,
    /// True if the user ended the build.
    pub is_interrupted: bool,
}

impl BuildEventsProgram {
    /// Fires `BuildStarted`, while the build goes on.
    pub fn start(&self) -> io::Result<BuildEvents> {
        // Made here and not by the export, which also commands without a build use.
        fs::create_dir_all(&self.directory)?;
        Ok(BuildEvents {
            process: self.program.start(&self.settings.to_string())?,
            directory: self.directory.clone(),
        })
    }
}

/// Running program. If it is dropped, `BuildCompleted` is not fired.
#[derive(Debug)]
pub struct BuildEvents {
    process: Child,
    directory: PathBuf,
}

impl BuildEvents {
    /// Directory that handlers see as the build directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Fires `BuildCompleted` and waits until all handlers have returned.
    pub async fn complete(mut self, end: BuildEnd) -> io::Result<()> {
        let line = json!({"tasks": end.tasks, "failed": end.failed, "interrupted": end.is_interrupted});
        if let Some(mut requests) = self.process.stdin.take() {
            requests.write_all(format!("{line}\n").as_bytes()).await?;
        }
        let output = self.process.wait_with_output().await?;
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "build_events.py ended with {}",
                output.status
            )))
        }
    }
}
