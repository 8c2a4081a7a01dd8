//! Takes directories into possession for one worker.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bitzel_cas::DirectoryLock;

use super::removal::remove;
use crate::error::Error;

/// Creates a directory that only this worker uses, and locks it.
pub(super) fn take(directory: &Path) -> Result<(PathBuf, DirectoryLock), Error> {
    create(directory)?;
    let directory = directory
        .canonicalize()
        .map_err(Error::io_at("resolve", directory))?;
    // Files of Actions may be setuid: no other user may reach them.
    fs::set_permissions(&directory, Permissions::from_mode(0o700))
        .map_err(Error::io_at("change mode of", &directory))?;
    match DirectoryLock::acquire(&directory) {
        Ok(lock) => Ok((directory, lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::DirectoryInUse(directory)),
        Err(error) => Err(Error::io_at("lock", &directory)(error)),
    }
}

/// Refuses a directory that other users own or can write to, such as /dev/shm itself: [`take`] changes the mode.
pub(super) fn refuse_shared(directory: &Path) -> Result<(), Error> {
    let Ok(metadata) = fs::metadata(directory) else {
        // It is created later.
        return Ok(());
    };
    if metadata.uid() == rustix::process::getuid().as_raw() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::SharedDirectory(directory.to_owned()))
}

/// Removes entries of a directory.
pub(super) fn remove_all(directory: &Path, names: &[&str]) -> Result<(), Error> {
    names.iter().try_for_each(|name| remove(&directory.join(name)))
}

/// Creates directories in a directory.
pub(super) fn create_all(directory: &Path, names: &[&str]) -> Result<(), Error> {
    names.iter().try_for_each(|name| create(&directory.join(name)))
}

/// Creates a directory and its parents, accessible to this user only.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    let created = DirBuilder::new().mode(0o700).recursive(true).create(path);
    created.map_err(Error::io_at("create", path))
}
