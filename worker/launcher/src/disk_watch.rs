//! Watch of the disk space and the logs of a command, from the launcher, which can read directories of any mode.
//!
//! What it cannot see: files that are deleted but still open, and what lies deeper than [`MAX_DEPTH`].

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bitzel_launcher::{
    DISK_WATCH_INTERVAL, LaunchRequest, MAX_DISK_WATCH_INTERVAL, WatchedBound, WatchedBounds, watch_interval,
};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::path::Arg;

/// Levels of directories that a look descends. Each takes a file descriptor. No output may be deeper.
const MAX_DEPTH: usize = 512;
/// Bytes that an entry counts at least: also an empty file takes an inode and a name.
const MIN_ENTRY_BYTES: u64 = 4096;
/// Bytes that each further name of a file counts: it takes a part of a directory, and of every list of names.
const FURTHER_NAME_BYTES: u64 = 256;

/// Watch of one command.
pub(crate) struct DiskWatch<'run> {
    request: &'run LaunchRequest,
    bounds: WatchedBounds,
    next: Instant,
    peak_bytes: u64,
}

/// A sum that is under way.
struct Sum<S> {
    bytes: u64,
    /// Sum at which the look ends.
    limit: u64,
    /// Inodes with several names that are counted already.
    counted: HashSet<u64>,
    /// True if somebody waits for the launcher.
    is_interrupted: S,
}

impl<'run> DiskWatch<'run> {
    /// Starts a watch. It looks only at what `bounds` has.
    pub(crate) fn start(request: &'run LaunchRequest, bounds: &WatchedBounds) -> Self {
        Self {
            request,
            bounds: *bounds,
            next: Instant::now() + DISK_WATCH_INTERVAL,
            peak_bytes: 0,
        }
    }

    /// Time until the next look; `None` if there is nothing to watch.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let watches = self.bounds.disk_bytes.is_some() || self.bounds.log_bytes.is_some();
        watches.then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Looks at the files if it is time to. Gives the bound that they exceed, and what they use. A look ends early,
    /// without a result, when `is_interrupted`.
    pub(crate) fn look(&mut self, is_interrupted: impl FnMut() -> bool) -> Option<(WatchedBound, u64)> {
        if self.pause() != Some(Duration::ZERO) {
            return None;
        }
        let start = Instant::now();
        let found = self.exceeded(is_interrupted);
        let end = Instant::now();
        self.next = end + watch_interval(end - start, DISK_WATCH_INTERVAL, MAX_DISK_WATCH_INTERVAL);
        found
    }

    /// Most space on disk that a look found.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    fn exceeded(&mut self, is_interrupted: impl FnMut() -> bool) -> Option<(WatchedBound, u64)> {
        let logs = [&self.request.stdout, &self.request.stderr];
        if let Some(bound) = self.bounds.log_bytes {
            let sizes = logs
                .iter()
                .map(|path| fs::metadata(path).map_or(0, |log| log.len()));
            let size = sizes.fold(0, u64::saturating_add);
            if size > bound {
                return Some((WatchedBound::Log, size));
            }
        }
        let bound = self.bounds.disk_bytes?;
        let mut sum = Sum {
            bytes: 0,
            limit: bound,
            counted: HashSet::new(),
            is_interrupted,
        };
        for path in [&self.request.upper_directory, logs[0], logs[1]] {
            // What disappears meanwhile does not count. Nothing else fails here that would not fail for the command.
            let _ = sum.add(CWD, path.as_str(), 0);
        }
        // Also what an interrupted look has counted was there.
        self.peak_bytes = self.peak_bytes.max(sum.bytes);
        (sum.bytes > bound).then_some((WatchedBound::Disk, sum.bytes))
    }
}

impl<S: FnMut() -> bool> Sum<S> {
    /// Adds a file, or a directory with everything below it.
    fn add(&mut self, parent: impl AsFd, name: impl Arg + Copy, depth: usize) -> io::Result<()> {
        let status = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_directory = FileType::from_raw_mode(status.st_mode).is_dir();
        if !is_directory && status.st_nlink > 1 && !self.counted.insert(status.st_ino) {
            self.bytes = self.bytes.saturating_add(FURTHER_NAME_BYTES);
            return Ok(());
        }
        let on_disk = u64::try_from(status.st_blocks).unwrap_or(0).saturating_mul(512);
        self.bytes = self.bytes.saturating_add(on_disk.max(MIN_ENTRY_BYTES));
        if is_directory && depth < MAX_DEPTH {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(&parent, name, flags, Mode::empty())?;
            self.add_entries(&opened, depth)?;
        }
        Ok(())
    }

    fn add_entries(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            if self.bytes > self.limit || (self.is_interrupted)() {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if ![c".", c".."].contains(&name) {
                let _ = self.add(directory, name, depth + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn used(directory: &Path, limit: u64) -> u64 {
        let mut sum = Sum {
            bytes: 0,
            limit,
            counted: HashSet::new(),
            is_interrupted: || false,
        };
        sum.add(CWD, directory, 0).unwrap();
        sum.bytes
    }

    #[test]
    fn counts_blocks_and_entries_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let before = used(directory.path(), u64::MAX);
        fs::File::create(path("sparse"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert_eq!(used(directory.path(), u64::MAX), before + MIN_ENTRY_BYTES);
        fs::create_dir(path("closed")).unwrap();
        fs::write(path("closed/data"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(path("closed/data"), path("link")).unwrap();
        fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let after = used(directory.path(), u64::MAX);
        fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        let added = after - before;
        assert!((1 << 20..2 << 20).contains(&added), "{added}");
        // Many names of one file count too.
        for number in 0..1000 {
            fs::hard_link(path("sparse"), path(&format!("name {number}"))).unwrap();
        }
        let linked = used(directory.path(), u64::MAX);
        assert!(linked - after >= 1000 * FURTHER_NAME_BYTES, "{after} {linked}");
        // It stops soon after the limit.
        assert!(used(directory.path(), 1) < after);
    }
}
