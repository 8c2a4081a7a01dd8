//! Files that are read again when they have changed.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Shortest time between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one version of a file from another: replaced by rename or written in place.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

/// Notices when one of some files has changed. Looks when somebody asks, which is when it matters.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    seen: Mutex<(Instant, Stamp)>,
}

impl WatchedFiles {
    /// Watches `paths`, from how they are now.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let stamp = stamp(&paths);
        Self {
            paths,
            seen: Mutex::new((Instant::now(), stamp)),
        }
    }

    /// Whether a file has changed since the last `true`, as far as known: at most one look in a second.
    pub fn changed(&self) -> bool {
        let mut seen = self.seen.lock();
        if seen.0.elapsed() < INTERVAL {
            return false;
        }
        let now = stamp(&self.paths);
        let changed = now != seen.1;
        *seen = (Instant::now(), now);
        changed
    }
}

fn stamp(paths: &[PathBuf]) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let one = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    paths.iter().map(one).collect()
}
