//! Digests of files that a command left.

use std::fs::File;
use std::io;
use std::path::Path;

use bitzel_proto::{Digest, DigestFunction};
use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::opening::open_without_symlinks;
use crate::error::Error;

/// Hashes a file of about `size` bytes. A sparse file can have far more bytes than were written, so this can be
/// cancelled.
pub(crate) fn hash_file(
    function: DigestFunction,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
) -> Result<Digest, Error> {
    hash_and_pass_on(function, path, size, cancellation, |_| {})
}

/// Like [`hash_file`]. Passes the bytes to `each` while it hashes them.
pub(super) fn hash_and_pass_on(
    function: DigestFunction,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
    each: impl FnMut(&[u8]),
) -> Result<Digest, Error> {
    let open = open_without_symlinks(path, OFlags::RDONLY).map_err(Error::io_at("read", path))?;
    hash_bytes(function, open.into(), path, size, cancellation, each)
}

/// Like [`hash_file`], of an open file. `path` is for the error.
pub(super) fn hash_open_file(
    function: DigestFunction,
    open: File,
    path: &Path,
    size: u64,
    cancellation: &CancellationToken,
) -> Result<Digest, Error> {
    hash_bytes(function, open, path, size, cancellation, |_| {})
}

fn hash_bytes(
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
        match io::Read::read(&mut open, &mut buffer).map_err(Error::io_at("read", path))? {
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

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn follows_no_symlink_and_waits_for_no_pipe() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("secret")).unwrap();
        fs::write(path("secret/file"), "x").unwrap();
        symlink("secret", path("directory")).unwrap();
        symlink("secret/file", path("file")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let digest = |name| hash_file(DigestFunction::Sha256, &path(name), 1, &CancellationToken::new());
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
        let result = hash_file(DigestFunction::Sha256, &path("secret/file"), 1, &cancelled);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
