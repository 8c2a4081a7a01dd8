//! Detection of files that have changed.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Files that are checked for changes on each request for the answer, at most once in an interval.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    last_check: Mutex<Check>,
}

/// Versions of the files at one time.
#[derive(Debug)]
struct Check {
    at: Instant,
    versions: Vec<Option<FileVersion>>,
}

/// Properties that differ between two versions of a file, be it replaced by a rename or written in place.
#[derive(Debug, PartialEq)]
struct FileVersion {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

impl WatchedFiles {
    /// Shortest time between two checks of the files. It is measured by the clock of tokio, which tests can advance.
    pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

    /// Watches `paths`, starting from their present versions.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let last_check = Mutex::new(Check::of(&paths));
        Self { paths, last_check }
    }

    /// True if a file has changed since the last `true`. Within [`Self::CHECK_INTERVAL`] of a check, the files are not
    /// checked again and the answer is `false`.
    pub fn changed(&self) -> bool {
        let mut last = self.last_check.lock();
        if last.at.elapsed() < Self::CHECK_INTERVAL {
            return false;
        }
        let now = Check::of(&self.paths);
        let changed = now.versions != last.versions;
        *last = now;
        changed
    }
}

impl Check {
    fn of(paths: &[PathBuf]) -> Self {
        Self {
            versions: paths.iter().map(FileVersion::of).collect(),
            at: Instant::now(),
        }
    }
}

impl FileVersion {
    /// `None` if the file cannot be examined.
    fn of(path: &PathBuf) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok()?,
            size: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

#[cfg(test)]
mod tests;
