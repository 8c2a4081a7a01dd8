//! The worker's directories: who owns them, what is in them, and how what is temporary goes away again.
//!
//! ```text
//! lock                 held as long as the worker lives
//! files/<2 hex>/…      the file cache, the only thing that outlives the process
//! layers/<n>/          shared lower layers of input roots
//! actions/<n>/lower    the part of an input root that only one Action has
//! changes/<n>/         what an Action makes: upper, work, stdout, stderr
//! temporary/<n>        files that are being written
//! etc/                 the sandbox's /etc/passwd and the like
//! ```
//!
//! `changes` can be in another directory, such as one in memory, which the worker then owns and locks as well. All
//! else has to be on one file system, because input roots are made of links to the file cache.
//!
//! A worker that was killed leaves layers, Actions and temporary files behind; the next one removes them when it
//! opens the directories. The locks guard them against doing so to a living worker.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_cas::DirectoryLock;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use crate::error::Error;

mod action_directory;
mod removal;

pub use action_directory::ActionDirectory;
pub(crate) use removal::open_directory;
use removal::remove_tree;

/// Where the changes of Actions are, below the directory that has them.
pub const CHANGES: &str = "changes";

/// The worker's directories, locked.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    /// Where the changes of Actions are, if not below the root.
    elsewhere: Option<PathBuf>,
    is_bindable: bool,
    /// See [`Scratch::writing_programs`].
    descriptors: RwLock<()>,
    counter: AtomicU64,
    /// Numbers of directories of Actions that the next ones can have.
    idle: Mutex<Vec<String>>,
    _locks: Vec<DirectoryLock>,
}

impl Scratch {
    /// Creates or opens the directory, and that `for_changes` if the changes of Actions are to be elsewhere, locks them
    /// and removes what a killed predecessor left.
    pub fn open(root: &Path, for_changes: Option<&Path>) -> Result<Arc<Self>, Error> {
        let (root, lock) = own(root)?;
        let mut locks = vec![lock];
        clean(&root, &["layers", "actions", CHANGES, "temporary"])?;
        create(
            &root,
            &["files", "layers", "actions", CHANGES, "temporary", "etc"],
        )?;
        let elsewhere = match for_changes {
            Some(directory) => {
                refuse_shared(directory)?;
                let (directory, lock) = own(directory)?;
                locks.push(lock);
                clean(&directory, &[CHANGES])?;
                create(&directory, &[CHANGES])?;
                Some(directory.join(CHANGES))
            }
            None => None,
        };
        let changes = elsewhere.clone().unwrap_or_else(|| root.join(CHANGES));
        let is_bindable =
            is_bindable(&changes).map_err(Error::io(format!("look at {}", changes.display())))?;
        Ok(Arc::new(Self {
            root,
            elsewhere,
            is_bindable,
            descriptors: RwLock::default(),
            counter: AtomicU64::new(0),
            idle: Mutex::default(),
            _locks: locks,
        }))
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the changes of Actions are, absolute, if that is not [`CHANGES`] below the root.
    pub fn elsewhere(&self) -> Option<&Path> {
        self.elsewhere.as_deref()
    }

    /// Whether a command may see a directory of the changes itself, without an overlay in between: it can execute
    /// programs there, and the file system has no operations of its own for everybody, as those of btrfs, with
    /// which a command makes snapshots of what it cannot read and subvolumes that cannot be removed.
    pub fn is_bindable(&self) -> bool {
        self.is_bindable
    }

    /// To be held while a file is open for writing that a command may execute soon. A process that this one starts
    /// meanwhile has the file, too, for the moment until it executes its own program, and the kernel executes no file
    /// that somebody can write to.
    pub fn writing_programs(&self) -> impl Drop {
        self.descriptors.read()
    }

    /// To be held while a process is started, see [`Scratch::writing_programs`].
    pub fn starting_process(&self) -> impl Drop {
        self.descriptors.write()
    }

    /// A path that nothing else uses, relative to the root: `<parent>/<n>`.
    pub fn fresh(&self, parent: &str) -> String {
        format!("{parent}/{}", self.fresh_number())
    }

    fn fresh_number(&self) -> String {
        format!("{:x}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// A directory for one Action, as good as new: nothing in it was ever within a command's reach.
    pub fn action_directory(self: &Arc<Self>) -> Result<ActionDirectory, Error> {
        ActionDirectory::new(Arc::clone(self))
    }
}

fn is_bindable(directory: &Path) -> rustix::io::Result<bool> {
    // The magic numbers of ext2 to ext4, xfs and tmpfs.
    const KNOWN: [u64; 3] = [0xef53, 0x5846_5342, 0x0102_1994];
    let flags = statvfs(directory)?.f_flag;
    let kind = u64::try_from(statfs(directory)?.f_type).unwrap_or(0);
    Ok(KNOWN.contains(&kind) && !flags.contains(StatVfsMountFlags::NOEXEC))
}

/// Makes a directory that only this worker uses, and locks it.
fn own(directory: &Path) -> Result<(PathBuf, DirectoryLock), Error> {
    let failed = |what: &str, path: &Path| Error::io(format!("{what} {}", path.display()));
    make_directory(directory)?;
    let directory = directory.canonicalize().map_err(failed("resolve", directory))?;
    // Files of Actions may be setuid: nobody else may reach them.
    fs::set_permissions(&directory, Permissions::from_mode(0o700))
        .map_err(failed("change mode of", &directory))?;
    match DirectoryLock::acquire(&directory) {
        Ok(lock) => Ok((directory, lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::CacheInUse(directory)),
        Err(error) => Err(failed("lock", &directory)(error)),
    }
}

/// Refuses a directory that is not this user's alone, such as /dev/shm itself: its mode would be changed.
fn refuse_shared(directory: &Path) -> Result<(), Error> {
    let Ok(metadata) = fs::metadata(directory) else {
        // It will be made.
        return Ok(());
    };
    if metadata.uid() == rustix::process::getuid().as_raw() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::SharedDirectory(directory.to_owned()))
}

fn clean(directory: &Path, names: &[&str]) -> Result<(), Error> {
    names.iter().try_for_each(|name| remove(&directory.join(name)))
}

fn create(directory: &Path, names: &[&str]) -> Result<(), Error> {
    names
        .iter()
        .try_for_each(|name| make_directory(&directory.join(name)))
}

/// Makes a directory, and those above it, for nobody but this user.
fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(Error::io(format!("create {}", path.display())))
}

/// Removes a file or a directory, whatever a command left there. Nothing there is a success.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    remove_tree(path).map_err(Error::io(format!("remove {}", path.display())))
}

#[cfg(test)]
mod tests;
