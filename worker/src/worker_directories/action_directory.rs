//! The directories of one running Action.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_proto::with_causes;

use super::{CHANGES, WorkerDirectories, ownership, remove};
use crate::error::Error;

/// The directories of one running Action, removed when the value is dropped.
///
/// `lower` is the part of its input root that is not shared. `upper`, `work`, `stdout` and `stderr` lie in the scratch
/// space, where the command writes.
#[derive(Debug)]
pub struct ActionDirectory {
    directories: Arc<WorkerDirectories>,
    number: String,
    is_removed: bool,
}

impl ActionDirectory {
    /// Creates the directories, or takes those of an earlier Action. Nothing in them was ever within reach of a command.
    /// Blocks.
    pub fn create(directories: &Arc<WorkerDirectories>) -> Result<Self, Error> {
        let idle = directories.idle_numbers.lock().pop();
        let (missing, number): (&[&str], _) = match idle {
            Some(number) => (&["upper"], number),
            None => (&["lower", "upper", "work"], directories.fresh_number()),
        };
        let directory = Self {
            directories: Arc::clone(directories),
            number,
            is_removed: false,
        };
        for name in missing {
            ownership::create(&directory.path(name))?;
        }
        Ok(directory)
    }

    /// The absolute path of an entry.
    pub fn path(&self, name: &str) -> PathBuf {
        self.parent(name).join(name)
    }

    fn parent(&self, name: &str) -> PathBuf {
        match &self.directories.separate_scratch {
            Some(scratch) if name != "lower" => scratch.join(&self.number),
            _ => self.directories.cache.join(self.relative_parent(name)),
        }
    }

    /// The path of an entry relative to the cache directory, as a launcher sees it.
    pub fn relative(&self, name: &str) -> String {
        format!("{}/{name}", self.relative_parent(name))
    }

    fn relative_parent(&self, name: &str) -> String {
        let parent = if name == "lower" { "actions" } else { CHANGES };
        format!("{parent}/{}", self.number)
    }

    fn parents(&self) -> [PathBuf; 2] {
        [self.parent("lower"), self.parent("upper")]
    }

    /// Removes the directories now and returns the error if that fails. Blocks.
    ///
    /// `lower` and `work` are kept for the next Action where they are empty: creating and removing directories is a
    /// good part of the cost of a small Action. `upper` and the logs are removed, because a command may have given them
    /// attributes that the next one would inherit.
    pub fn remove(mut self) -> Result<(), Error> {
        self.is_removed = true;
        for name in ["upper", "work/work", "stdout", "stderr"] {
            remove(&self.path(name))?;
        }
        if !self.is_reusable().unwrap_or(false) {
            return remove_each(&self.parents());
        }
        let number = std::mem::take(&mut self.number);
        self.directories.idle_numbers.lock().push(number);
        Ok(())
    }

    /// Removes the directories and keeps none, for an Action that may have given files to processes outside its
    /// sandbox. Blocks.
    ///
    /// In the machine's network there are ways to do that. Such a process can write to the files, and to their
    /// directories, for as long as it lives.
    pub fn discard(mut self) -> Result<(), Error> {
        self.is_removed = true;
        remove_each(&self.parents())
    }

    /// Resets the mode of `lower`, which is that of the last input root. True if `lower` and `work` are empty.
    fn is_reusable(&self) -> io::Result<bool> {
        let lower = self.path("lower");
        fs::set_permissions(&lower, Permissions::from_mode(0o700))?;
        Ok(is_empty(&lower)? && is_empty(&self.path("work"))?)
    }
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

fn remove_each(paths: &[PathBuf]) -> Result<(), Error> {
    paths.iter().try_for_each(|path| remove(path))
}

impl Drop for ActionDirectory {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let paths = self.parents();
        let remove = move || {
            if let Err(error) = remove_each(&paths) {
                tracing::warn!(error = %with_causes(&error), "cannot remove the directory of an Action");
            }
        };
        // A cancelled execution drops this on a thread of the runtime, which must not wait for a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
