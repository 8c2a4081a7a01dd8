//! Eviction from directories of the export cache.
//!
//! Each change of a recipe or of the configuration leaves files that nothing names any more. Graphs of several build
//! directories share files, so no owner could remove them. So files are removed by age, and beyond a limit the least
//! recently used ones first. The modification time of a file is the time of its last use.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::FrontEndError;

const DAY: Duration = Duration::from_hours(24);

/// Limits of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EvictionLimits {
    /// Maximum time since the last use of a file.
    pub(crate) max_unused_time: Duration,
    /// Maximum size of all files together.
    pub(crate) max_bytes: u64,
    /// Maximum number of files.
    pub(crate) max_files: usize,
    /// Time since the last use in which a file stays in spite of the other limits: a running build may read it.
    pub(crate) protected_time: Duration,
}

/// Limits for snapshots and recipes: an image of openembedded-core needs some 50 MB of each.
pub(crate) const EXPORT_LIMITS: EvictionLimits = EvictionLimits {
    max_unused_time: Duration::from_secs(30 * DAY.as_secs()),
    max_bytes: 2 * 1024 * 1024 * 1024,
    max_files: usize::MAX,
    protected_time: DAY,
};

/// Limits for graphs, of which each has two files. A graph of 5,000 tasks takes about a megabyte.
pub(crate) const GRAPH_LIMITS: EvictionLimits = EvictionLimits {
    max_unused_time: Duration::MAX,
    max_bytes: u64::MAX,
    max_files: 128,
    protected_time: Duration::ZERO,
};

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CachedFile {
    last_use: SystemTime,
    size_bytes: u64,
    path: PathBuf,
}

/// Marks a file as used now. Returns true if it exists. A read-only cache is not an error.
pub(crate) fn mark_used(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else {
        return false;
    };
    let _ = file.set_modified(SystemTime::now());
    true
}

/// Removes the files that exceed the limits.
pub(crate) fn evict(directory: &Path, limits: EvictionLimits, now: SystemTime) -> Result<(), FrontEndError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(FrontEndError::io(directory))? {
        let entry = entry.map_err(FrontEndError::io(directory))?;
        // Another bitzel may be removing the same file.
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
            && let Ok(last_use) = metadata.modified()
        {
            files.push(CachedFile {
                last_use,
                size_bytes: metadata.len(),
                path: entry.path(),
            });
        }
    }
    for path in surplus(files, limits, now) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Selects the files to remove. A file with a time in the future (a clock was set back) counts as used now.
fn surplus(mut files: Vec<CachedFile>, limits: EvictionLimits, now: SystemTime) -> Vec<PathBuf> {
    files.sort_unstable_by(|one, other| {
        let latest_first = other.last_use.cmp(&one.last_use);
        latest_first.then_with(|| one.path.cmp(&other.path))
    });
    let (mut kept_bytes, mut kept_files): (u64, usize) = (0, 0);
    files
        .into_iter()
        .filter_map(|file| {
            let age = now.duration_since(file.last_use).unwrap_or_default();
            let total = kept_bytes.saturating_add(file.size_bytes);
            let fits =
                age <= limits.max_unused_time && total <= limits.max_bytes && kept_files < limits.max_files;
            let protected = !limits.protected_time.is_zero() && age <= limits.protected_time;
            if protected || fits {
                kept_bytes = total;
                kept_files += 1;
                None
            } else {
                Some(file.path)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
