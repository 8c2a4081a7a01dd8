//! The lock by which one process owns a directory.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// An exclusive lock on a directory: the file `lock` in it, held until this is dropped.
///
/// Closing the file would not do. A child that another thread starts at that moment has a duplicate of every
/// descriptor until its `exec`, and `flock(2)` holds until the last duplicate is closed: the next one to open the
/// directory would find it in use by nobody. An explicit unlock holds for all duplicates.
#[derive(Debug)]
pub struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks `directory`, which exists.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when somebody else has the lock; others when the file cannot be created.
    pub fn acquire(directory: &Path) -> io::Result<Self> {
        let file = File::create(directory.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Locks `directory`, which exists, as soon as nobody else has the lock. Blocks.
    ///
    /// # Errors
    /// When the file cannot be created or locked.
    pub fn wait(directory: &Path) -> io::Result<Self> {
        let file = File::create(directory.join("lock"))?;
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // When this fails, the kernel unlocks at the close.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_a_duplicate_of_the_descriptor_does_not_keep_it() {
        let directory = TempDir::new().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let refused = DirectoryLock::acquire(directory.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        // What a child has between fork and exec.
        let _duplicate = lock.0.try_clone().unwrap();
        drop(lock);
        DirectoryLock::acquire(directory.path()).unwrap();
    }
}
