//! The directories of one worker: the cache directory and the scratch space.
//!
//! ```text
//! lock                 held as long as the worker lives
//! files/<2 hex>/…      the file cache, the only part that outlives the process
//! layers/<n>/          shared lower layers of input roots
//! mount-points/        uppermost layer of each image root
//! actions/<n>/lower    the part of an input root that belongs to one Action
//! changes/<n>/         scratch space, written by Actions: upper, work, stdout, stderr
//! temporary/<n>        files that are being written
//! ```
//!
//! The scratch space `changes` can lie in a second directory, for example one in memory. The worker then owns and locks
//! that directory as well. All other parts lie on one file system, because input roots consist of links to the file
//! cache.
//!
//! A killed worker leaves layers, directories of Actions and temporary files behind. The next worker removes them when
//! it opens the directories. The locks prevent it from removing those of a living worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_cas::DirectoryLock;
use bitzel_cas::blocking::run_blocking;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use crate::bounds::size;
use crate::error::Error;

mod action_directory;
mod ownership;
mod removal;

pub use action_directory::ActionDirectory;
pub(crate) use removal::{open_directory, remove};

/// Name of the scratch space below the directory that holds it.
pub const CHANGES: &str = "changes";

/// Name of the layer with the mount points of image roots.
pub(crate) const MOUNT_POINTS: &str = "mount-points";

/// Name of the empty directory on which each launcher mounts its image root, in its own mount namespace.
pub(crate) const IMAGE_ROOT: &str = "image-root";

/// Free space of the scratch space at which it counts as full.
const MIN_FREE_BYTES: u64 = 4 << 20;
/// Free inodes of the scratch space at which it counts as full.
const MIN_FREE_INODES: u64 = 16;

/// Space for changes that a worker tells at least: zero would mean that it tells none.
const MIN_SPACE_FOR_CHANGES: u64 = 256 << 20;

/// Free bytes of the cache directory at which space is low, unless the file system is small: see [`LOW_SPACE_SHARE`].
const LOW_BYTES: u64 = 1 << 30;
/// Free inodes of the cache directory at which space is low, unless the file system is small.
const LOW_INODES: u64 = 1 << 16;
/// Share of a small file system, as one part of so many, at which its space is low.
const LOW_SPACE_SHARE: u64 = 64;

/// The locked directories of a worker.
#[derive(Debug)]
pub struct WorkerDirectories {
    cache: PathBuf,
    separate_scratch: Option<PathBuf>,
    scratch_is_bindable: bool,
    /// See [`WorkerDirectories::executable_write_guard`].
    open_executables: RwLock<()>,
    /// Number of the next fresh path.
    next_number: AtomicU64,
    /// Numbers of [`ActionDirectory`]s that can be used again.
    idle_numbers: Mutex<Vec<String>>,
    _locks: Vec<DirectoryLock>,
}

impl WorkerDirectories {
    /// Creates or opens the directory `cache`, and `scratch` if the scratch space lies in a directory of its own. Locks
    /// them and removes the remains of a killed worker. Blocks.
    pub fn open(cache: &Path, scratch: Option<&Path>) -> Result<Arc<Self>, Error> {
        let (cache, lock) = ownership::take(cache)?;
        let mut locks = vec![lock];
        ownership::remove_all(
            &cache,
            &[
                "layers",
                MOUNT_POINTS,
                IMAGE_ROOT,
                "actions",
                CHANGES,
                "temporary",
            ],
        )?;
        ownership::create_all(
            &cache,
            &["files", "layers", IMAGE_ROOT, "actions", CHANGES, "temporary"],
        )?;
        let separate_scratch = match scratch {
            Some(directory) => {
                ownership::refuse_shared(directory)?;
                let (directory, lock) = ownership::take(directory)?;
                locks.push(lock);
                ownership::remove_all(&directory, &[CHANGES])?;
                ownership::create_all(&directory, &[CHANGES])?;
                Some(directory.join(CHANGES))
            }
            None => None,
        };
        let scratch = separate_scratch.clone().unwrap_or_else(|| cache.join(CHANGES));
        let scratch_is_bindable = is_bindable(&scratch).map_err(Error::io_at("examine", &scratch))?;
        Ok(Arc::new(Self {
            cache,
            separate_scratch,
            scratch_is_bindable,
            open_executables: RwLock::default(),
            next_number: AtomicU64::new(0),
            idle_numbers: Mutex::default(),
            _locks: locks,
        }))
    }

    /// The absolute path of the cache directory. Launchers start in it: their requests hold paths relative to it.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The absolute path of the scratch space, if that is not [`CHANGES`] below the cache directory.
    pub fn separate_scratch(&self) -> Option<&Path> {
        self.separate_scratch.as_deref()
    }

    /// True if a command may see a directory of the scratch space itself, without an overlay in between.
    ///
    /// Programs can be executed there, and the file system offers no operations of its own to every user. Btrfs does:
    /// with them a command makes snapshots of files that it cannot read, and subvolumes that cannot be removed.
    pub fn scratch_is_bindable(&self) -> bool {
        self.scratch_is_bindable
    }

    /// Space for changes of Actions together, of which the file cache may still take `cache_growth`. That is half of it at most:
    /// the cache gives way when space is low. Blocks.
    pub fn space_for_changes(&self, cache_growth: u64) -> Result<u64, Error> {
        let scratch = self.scratch();
        let status = statvfs(&scratch).map_err(Error::io_at("examine", &scratch))?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        let growth = if self.separate_scratch.is_some() {
            0
        } else {
            cache_growth.min(free / 2)
        };
        Ok((free - growth).max(MIN_SPACE_FOR_CHANGES))
    }

    fn scratch(&self) -> PathBuf {
        let separate = self.separate_scratch.clone();
        separate.unwrap_or_else(|| self.cache.join(CHANGES))
    }

    /// Fails with [`Error::Exhausted`] if the scratch space is full, which commands notice too. Blocks.
    pub fn check_free_space(&self) -> Result<(), Error> {
        let scratch = self.scratch();
        let status = statvfs(&scratch).map_err(Error::io_at("examine", &scratch))?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        // Some file systems do not count inodes.
        let has_inodes = status.f_files == 0 || status.f_favail > MIN_FREE_INODES;
        if free > MIN_FREE_BYTES && has_inodes {
            return Ok(());
        }
        Err(Error::Exhausted(format!(
            "the command failed, and its file system {} has {} and {} inodes left",
            scratch.display(),
            size(free),
            status.f_favail
        )))
    }

    /// True if the file system of the cache directory has so little space that it is better to evict layers than to fail.
    pub async fn is_low_on_space(&self) -> bool {
        let cache = self.cache.clone();
        run_blocking(move || {
            let Ok(status) = statvfs(&cache) else {
                return false;
            };
            let is_low = |free: u64, total: u64, limit: u64| free < limit.min(total / LOW_SPACE_SHARE);
            let block = status.f_frsize;
            is_low(
                status.f_bavail.saturating_mul(block),
                status.f_blocks.saturating_mul(block),
                LOW_BYTES,
            ) || is_low(status.f_favail, status.f_files, LOW_INODES)
        })
        .await
    }

    /// A guard to hold while a file that a command may soon execute is open for writing.
    ///
    /// A process that the worker starts at that moment holds a duplicate of the descriptor until it executes its own
    /// program, and the kernel executes no file that is open for writing.
    pub fn executable_write_guard(&self) -> impl Drop {
        self.open_executables.read()
    }

    /// A guard to hold while a process is started. See [`WorkerDirectories::executable_write_guard`].
    pub fn process_start_guard(&self) -> impl Drop {
        self.open_executables.write()
    }

    /// A path that nothing else uses, relative to the cache directory: `<parent>/<n>`.
    pub fn fresh_path(&self, parent: &str) -> String {
        format!("{parent}/{}", self.fresh_number())
    }

    fn fresh_number(&self) -> String {
        format!("{:x}", self.next_number.fetch_add(1, Ordering::Relaxed))
    }
}

fn is_bindable(directory: &Path) -> rustix::io::Result<bool> {
    // The magic numbers of ext2 to ext4, xfs and tmpfs.
    const BINDABLE_FILE_SYSTEMS: [u64; 3] = [0xef53, 0x5846_5342, 0x0102_1994];
    let flags = statvfs(directory)?.f_flag;
    let file_system = u64::try_from(statfs(directory)?.f_type).unwrap_or(0);
    Ok(BINDABLE_FILE_SYSTEMS.contains(&file_system) && !flags.contains(StatVfsMountFlags::NOEXEC))
}

#[cfg(test)]
mod tests;
