//! Keeps a directory of the export cache from growing without end.
//!
//! Each change of a recipe or of the configuration leaves files that nothing names any more, and graphs of other
//! build directories share what is still named, so there is no owner who could remove them. They go by age, and
//! beyond a size the least recently used go first. Whoever uses a file marks it by its modification time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::FrontEndError;

const DAY: Duration = Duration::from_hours(24);

/// What may stay in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Files that were not used for longer than this are removed.
    pub(crate) unused: Duration,
    /// Beyond this many bytes the least recently used files are removed.
    pub(crate) bytes: u64,
    /// Files used within this time stay whatever the size: a build that is still running reads them.
    pub(crate) in_use: Duration,
}

/// For snapshots and recipes: an image of openembedded-core needs some 50 MB of each.
pub(crate) const EXPORT_LIMITS: Limits = Limits {
    unused: Duration::from_secs(30 * DAY.as_secs()),
    bytes: 2 * 1024 * 1024 * 1024,
    in_use: DAY,
};

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

/// Marks a file as used now and says whether it is there. A read-only cache is no reason to fail.
pub(crate) fn mark_used(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else {
        return false;
    };
    let _ = file.set_modified(SystemTime::now());
    true
}

/// Removes what exceeds the limits.
pub(crate) fn prune(directory: &Path, limits: Limits, now: SystemTime) -> Result<(), FrontEndError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(FrontEndError::io(directory))? {
        let entry = entry.map_err(FrontEndError::io(directory))?;
        // Another bitzel may be removing the same file.
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
            && let Ok(used) = metadata.modified()
        {
            entries.push(Entry {
                used,
                size: metadata.len(),
                path: entry.path(),
            });
        }
    }
    for path in surplus(entries, limits, now) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// The files to remove. A file from the future (a clock was set back) counts as used now.
fn surplus(mut entries: Vec<Entry>, limits: Limits, now: SystemTime) -> Vec<PathBuf> {
    entries.sort_unstable_by(|one, other| other.used.cmp(&one.used).then_with(|| one.path.cmp(&other.path)));
    let mut kept: u64 = 0;
    entries
        .into_iter()
        .filter_map(|entry| {
            let age = now.duration_since(entry.used).unwrap_or_default();
            let total = kept.saturating_add(entry.size);
            if age <= limits.in_use || (age <= limits.unused && total <= limits.bytes) {
                kept = total;
                None
            } else {
                Some(entry.path)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
