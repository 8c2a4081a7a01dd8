//! Free space of a file system.

use std::io;
use std::path::Path;

/// Number of bytes that this process can still use on the file system of `path`. Other processes may use them first.
/// Blocks.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}
