//! The directories of one running Action.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_proto::with_causes;

use super::{CHANGES, Scratch, make_directory, remove};
use crate::error::Error;

/// The directories of one running Action: `lower`, the part of its input root that is not shared, and what the command
/// makes, `upper`, `work`, `stdout` and `stderr`. They are removed when the value is dropped, on whichever way.
#[derive(Debug)]
pub struct ActionDirectory {
    scratch: Arc<Scratch>,
    number: String,
    removed: bool,
}

impl ActionDirectory {
    pub(super) fn new(scratch: Arc<Scratch>) -> Result<Self, Error> {
        let idle = scratch.idle.lock().pop();
        let (fresh, number): (&[&str], _) = match idle {
            Some(number) => (&["upper"], number),
            None => (&["lower", "upper", "work"], scratch.fresh_number()),
        };
        let directory = Self {
            scratch,
            number,
            removed: false,
        };
        for name in fresh {
            make_directory(&directory.path(name))?;
        }
        Ok(directory)
    }

    /// The absolute path of an entry.
    pub fn path(&self, name: &str) -> PathBuf {
        self.parent(name).join(name)
    }

    fn parent(&self, name: &str) -> PathBuf {
        match &self.scratch.elsewhere {
            Some(changes) if name != "lower" => changes.join(&self.number),
            _ => self.scratch.root.join(self.relative_parent(name)),
        }
    }

    /// The path of an entry relative to the worker's directory, as a launcher sees that.
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

    /// Removes the directories now and says whether that worked. Blocks.
    ///
    /// `lower` and `work` are kept for the next Action where they can be empty: making and removing directories
    /// is a good part of what a small Action costs. `upper` and the logs go, because a command may have given
    /// them attributes that the next one would inherit.
    pub fn remove(mut self) -> Result<(), Error> {
        self.removed = true;
        for name in ["upper", "work/work", "stdout", "stderr"] {
            remove(&self.path(name))?;
        }
        if !self.is_reusable().unwrap_or(false) {
            return remove_all(&self.parents());
        }
        let number = std::mem::take(&mut self.number);
        self.scratch.idle.lock().push(number);
        Ok(())
    }

    /// Like [`ActionDirectory::remove`], but keeps nothing: for an Action that may have given files to processes outside its
    /// sandbox. In the machine's network there are ways to. Such a process can go on writing to them, and to
    /// the directories they are in, for as long as it lives.
    pub fn discard(mut self) -> Result<(), Error> {
        self.removed = true;
        remove_all(&self.parents())
    }

    /// Makes `lower`, which has the mode of the last input root, as it was, and says whether nothing is left.
    fn is_reusable(&self) -> io::Result<bool> {
        let lower = self.path("lower");
        fs::set_permissions(&lower, Permissions::from_mode(0o700))?;
        Ok(is_empty(&lower)? && is_empty(&self.path("work"))?)
    }
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

fn remove_all(paths: &[PathBuf]) -> Result<(), Error> {
    paths.iter().try_for_each(|path| remove(path))
}

impl Drop for ActionDirectory {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let paths = self.parents();
        let remove = move || {
            if let Err(error) = remove_all(&paths) {
                tracing::warn!(error = %with_causes(&error), "cannot remove the directory of an Action");
            }
        };
        // An abandoned execution drops this inside the runtime, which must not wait for a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
