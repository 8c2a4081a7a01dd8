//! Opens files that a command left.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, chmod, openat2};
use rustix::io::Errno;

/// Opens `path` for reading. No component of it may be a symlink: one that appears after the scan of the path could lead
/// to a file of the worker.
///
/// If the owner lacks the permission, grants it and leaves it that way: the mode was recorded before, and the upload
/// needs the permission, too.
pub(super) fn open_without_symlinks(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let open = |flags| {
        openat2(
            CWD,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )
    };
    // Non-blocking: a pipe that appears there may have no other end.
    let flags = flags | OFlags::NONBLOCK;
    match open(flags) {
        Err(Errno::ACCESS) => {
            let found = open(OFlags::PATH)?;
            let mode = if flags.contains(OFlags::DIRECTORY) {
                Mode::RWXU
            } else {
                Mode::RUSR
            };
            chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), mode)?;
            open(flags)
        }
        other => other,
    }
}
