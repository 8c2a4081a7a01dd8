//! Opens what a command left.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use bitzel_proto::{Digest, DigestFunction};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, chmod, openat2};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::merged_tree::failed;
use crate::error::Error;

/// Opens `path` for reading. No part of it may be a symlink: one that appears after the path was found to be something
/// else would lead to a file of the worker.
///
/// If this user lacks the permission although the file is theirs, they get it. It is left that way: the mode is
/// known, and the upload needs it too.
pub(super) fn open_plain(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let open = |flags| {
        openat2(
            CWD,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )
    };
    // Without waiting: nobody may be at the other end of a pipe that appears there.
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

/// Hashes a file that should have `size` bytes. A file can have far more than anybody wrote, so this can be
/// cancelled.
pub(crate) fn digest_of(
    function: DigestFunction,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
) -> Result<Digest, Error> {
    digest_and_pass_on(function, path, size, cancellation, |_| {})
}

/// Like [`digest_of`], and lets `each` have the bytes that are hashed.
pub(super) fn digest_and_pass_on(
    function: DigestFunction,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
    each: impl FnMut(&[u8]),
) -> Result<Digest, Error> {
    let open = open_plain(path, OFlags::RDONLY).map_err(failed(path))?;
    hash(function, open.into(), path, size, cancellation, each)
}

/// Like [`digest_of`], of an open file. `path` is for the error.
pub(super) fn digest_of_open(
    function: DigestFunction,
    open: File,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
) -> Result<Digest, Error> {
    hash(function, open, path, size, cancellation, |_| {})
}

fn hash(
    function: DigestFunction,
    mut open: File,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
    mut each: impl FnMut(&[u8]),
) -> Result<Digest, Error> {
    let mut hasher = function.hasher();
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 1 << 20)];
    while !cancellation.is_cancelled() {
        match io::Read::read(&mut open, &mut buffer).map_err(failed(path))? {
            0 => return Ok(hasher.finish()),
            size => {
                hasher.update(&buffer[..size]);
                each(&buffer[..size]);
            }
        }
    }
    Err(Error::Cancelled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn neither_a_symlink_nor_what_is_behind_one_is_opened_and_no_pipe_is_waited_for() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("secret")).unwrap();
        fs::write(path("secret/file"), "x").unwrap();
        symlink("secret", path("directory")).unwrap();
        symlink("secret/file", path("file")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let digest = |name| digest_of(DigestFunction::Sha256, &path(name), 1, &CancellationToken::new());
        assert_eq!(
            digest("secret/file").unwrap(),
            DigestFunction::Sha256.digest(b"x")
        );
        for link in ["file", "directory/file"] {
            let error = digest(link).unwrap_err();
            assert!(
                matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(40)),
                "{error}"
            );
        }
        digest("pipe").unwrap();
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        let result = digest_of(DigestFunction::Sha256, &path("secret/file"), 1, &cancelled);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
