//! Room on a disk.

use std::io;
use std::path::Path;

/// Bytes that are free for this process on the file system of `path`, whoever takes them next. Blocks.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}
