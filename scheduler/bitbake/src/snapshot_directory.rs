//! Directory of data store snapshots.

use std::path::{Path, PathBuf};

/// Directory of data store snapshots: files that are named by their SHA-256.
#[derive(Debug, Clone)]
pub struct SnapshotDirectory {
    directory: PathBuf,
}

impl SnapshotDirectory {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory, in which each snapshot is named by its SHA-256 in hex.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the snapshot with this SHA-256.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }
}
