//! Removal of parts of the export cache that nobody has used for long: each update of a machine's packages leaves those of
//! the root file system before it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bitzel_cas::DirectoryLock;

/// Time after its last use in which a part stays.
pub(super) const MAX_UNUSED_TIME: Duration = Duration::from_hours(30 * 24);

/// Removes the parts in `builds` that were last locked before that time and that nobody uses now. What cannot be removed
/// stays: a build does not fail for that. Blocks.
pub(super) fn remove(builds: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(builds) else {
        return;
    };
    for part in entries.flatten().map(|entry| entry.path()) {
        // Each lock sets the time of the file.
        let last_use = fs::metadata(part.join("lock")).and_then(|lock| lock.modified());
        let is_unused = last_use.is_ok_and(|last_use| {
            now.duration_since(last_use)
                .is_ok_and(|unused| unused > MAX_UNUSED_TIME)
        });
        if is_unused && let Ok(_lock) = DirectoryLock::acquire(&part) {
            let _ = fs::remove_dir_all(&part);
        }
    }
}
