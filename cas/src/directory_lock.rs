//! Lock that makes a directory the property of one process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Exclusive lock on a directory: a `flock(2)` on its file `lock`, held until this is dropped.
///
/// Closing the file is not enough to unlock. A child process that another thread starts at the same time has a
/// duplicate of every descriptor until its `exec`, and the lock is held until the last duplicate is closed: the next
/// process to open the directory would be refused although no process uses it. An explicit unlock holds for all
/// duplicates.
#[derive(Debug)]
pub struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks `directory`, which must exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the lock is held already; others if the file cannot be created.
    pub fn acquire(directory: &Path) -> io::Result<Self> {
        let file = File::create(directory.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the lock on `directory`, which must exist. Blocks.
    ///
    /// # Errors
    /// If the file cannot be created or locked.
    pub fn wait(directory: &Path) -> io::Result<Self> {
        let file = File::create(directory.join("lock"))?;
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // If this fails, the kernel unlocks when the file is closed.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn lock_is_exclusive_and_ends_despite_duplicate_descriptors() {
        let directory = TempDir::new().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let refused = DirectoryLock::acquire(directory.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        // A child has such a duplicate between fork and exec.
        let _duplicate = lock.0.try_clone().unwrap();
        drop(lock);
        DirectoryLock::acquire(directory.path()).unwrap();
    }
}
