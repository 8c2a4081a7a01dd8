//! Directory of files with a size limit, which survives the death of its process at any point.
//!
//! The store and the action cache on disk are built on it. Entries are named by digests and appear complete or not at
//! all. When space is needed, the least recently used entries are evicted. The list of entries, in order of use, is
//! kept in memory and in an index on disk:
//!
//! - `segments/{number}`: small entries, many in one file, each at the start of a block (`segments.rs`);
//! - `blobs/{function}/{first two digits}/{hash}-{size}`: large entries, a read-only file each;
//! - `temporary/`: files being written, removed when the directory is opened;
//! - `quarantine/`: entries whose content was wrong, the first to be evicted;
//! - `index/snapshot-{n}` and `index/journal-{n}`: the entries in order of use, and the changes since;
//! - `lock`: held by the one process that uses the directory.
//!
//! **After the death of the process** (`kill -9` included) all published entries are there, because the page cache
//! outlives processes. The journal names a small entry after its bytes were written, and a file before it appears or
//! is removed, so opening examines the files that the journal names and no others: two million entries take no
//! directory scan. Blocks that were written and never named are deallocated.
//!
//! **After a power loss** or a crash of the kernel (detected by another boot id) only the entries in the last index
//! snapshot are kept: the file system is synced before a snapshot counts, and never for single entries, which would
//! cost milliseconds each. Snapshots are taken on clean shutdown, every five minutes of activity, and when the journal
//! gets long. A scan then removes files that are not in the snapshot and forgets entries whose files are gone. Lost
//! blobs have to be built again; wrong blobs are never served.
//!
//! **After damage** to the index (a checksum is wrong, or a file is missing) the readable records count. Files and
//! blocks that they do not name are searched for entries whose content is right: files by their names, blocks by their
//! trailers (`segments/trailer.rs`). `index/open` exists while the directory is open, so that a missing journal is
//! noticed.
//!
//! **On a full disk** it opens and serves the entries that are there. The journal is made by the first change that
//! finds space; until then writes and evictions are refused for lack of space.
//!
//! All functions here block; callers keep them off the threads of the async runtime. Exceptions are documented.

mod checkpoint;
mod disk_full;
mod entries;
mod entry;
mod eviction;
mod files;
mod index_snapshot;
mod insertion;
mod journal;
mod lease;
mod lookup;
mod quarantine;
mod record;
mod recovery;
mod reservation;
mod segments;

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use bitzel_proto::{Digest, DigestFunction};
use parking_lot::{Condvar, Mutex};
use tempfile::NamedTempFile;

pub(crate) use self::checkpoint::CHECKPOINT_RECORDS;
pub(crate) use self::disk_full::disk_error;
use self::entries::Entries;
pub(crate) use self::entry::{Checksum, Encoding, Entry, Place};
use self::files::{empty_directory, make_directory, quarantined_files};
pub(crate) use self::insertion::{FinishedFile, SmallEntry};
use self::journal::Journal;
pub(crate) use self::lease::DirectoryLease;
pub(crate) use self::lookup::{Content, Located};
use self::record::Change;
pub(crate) use self::recovery::ContentChecks;
pub use self::recovery::Losses;
pub(crate) use self::reservation::Reservation;
use self::segments::Segments;
use crate::directory_lock::DirectoryLock;
use crate::error::Error;

/// Unit in which the size of entries is counted. File systems allocate blocks; without rounding, most of the space of
/// small entries would not be counted.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Limits of a directory, and the check of its files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Bytes that all entries together may take, in blocks of 4 KiB.
    pub(crate) limit: u64,
    /// Bytes that the file system must keep free.
    pub(crate) free_space_floor: u64,
    /// Records in the journal that start a snapshot.
    pub(crate) checkpoint_records: u64,
    /// Checks of content that no index names.
    pub(crate) checks: ContentChecks,
}

/// Number and size of the blobs in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes that they take, in blocks of 4 KiB, with those in quarantine.
    pub bytes: u64,
    /// Bytes reserved for blobs that are being written.
    pub reserved_bytes: u64,
    /// Bytes that all blobs together may take.
    pub limit_bytes: u64,
    /// Bytes that cannot be evicted, because running Actions need them.
    pub leased_bytes: u64,
    /// Corrupt blobs detected since the start.
    pub corrupt_blobs: u64,
    /// Blobs evicted since the start.
    pub evicted_blobs: u64,
}

/// Directory of entries with a size limit.
pub(crate) struct BoundedDirectory {
    root: PathBuf,
    options: Options,
    /// True if the file system can deallocate blocks inside a file, which segments need.
    has_segments: bool,
    state: Mutex<State>,
    /// Digests of dropped leases that are still protected from eviction.
    pending_releases: Mutex<Vec<Vec<Digest>>>,
    /// Signalled when blocks of evicted entries were deallocated.
    deallocated: Condvar,
    /// Held while a snapshot is written: one at a time.
    checkpointing: Mutex<()>,
    corrupt_blobs: AtomicU64,
    losses: Option<Losses>,
    /// Held as long as the directory is open.
    _lock: DirectoryLock,
}

/// The part of a directory that its mutex protects.
struct State {
    entries: Entries,
    segments: Segments,
    /// Bytes of entries and quarantine.
    used_bytes: u64,
    /// Part of `used_bytes` that is being deallocated.
    deallocating_bytes: u64,
    reserved_bytes: u64,
    evicted_blobs: u64,
    /// Paths and sizes of the files in quarantine, the oldest first.
    quarantine: VecDeque<(PathBuf, u64)>,
    journal: Journal,
    /// Time of the last snapshot.
    checkpointed: Instant,
    checkpoint_requested: bool,
    /// True if the last snapshot failed for lack of space.
    checkpoint_is_overdue: bool,
    closed: bool,
}

impl BoundedDirectory {
    /// Opens or creates the directory at `root`.
    pub(crate) fn open(root: &Path, options: Options) -> Result<Self, Error> {
        for name in ["quarantine", "index"] {
            make_directory(&root.join(name))?;
        }
        let lock = DirectoryLock::acquire(root).map_err(Error::io(format_args!(
            "cannot lock {}: another process uses this store; stop it or choose another directory",
            root.join("lock").display()
        )))?;
        let temporary = root.join("temporary");
        make_directory(&temporary)?;
        empty_directory(&temporary)?;
        let recovered = recovery::recover(root, options.checks, options.checkpoint_records)?;
        let quarantine = quarantined_files(&root.join("quarantine"))?;
        let blocks = |entry: Entry| u64::from(entry.blocks);
        let used_bytes = recovered.entries.iter().map(blocks).sum::<u64>() * BLOCK_BYTES
            + quarantine.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let segments = Segments::open(root, &recovered.entries)?;
        let directory = Self {
            root: root.to_owned(),
            options,
            has_segments: Segments::are_supported(&temporary),
            state: Mutex::new(State {
                entries: recovered.entries,
                segments,
                used_bytes,
                deallocating_bytes: 0,
                reserved_bytes: 0,
                evicted_blobs: 0,
                quarantine,
                journal: recovered.journal,
                checkpointed: Instant::now(),
                checkpoint_requested: false,
                checkpoint_is_overdue: false,
                closed: false,
            }),
            pending_releases: Mutex::default(),
            deallocated: Condvar::new(),
            checkpointing: Mutex::new(()),
            corrupt_blobs: AtomicU64::new(0),
            losses: recovered.losses,
            _lock: lock,
        };
        // The limit may be lower than last time. A disk that is too full for the free space floor is no reason not to
        // serve the entries that are there.
        match directory.make_space(DigestFunction::default().digest(&[]), 0) {
            Err(Error::NoSpace { reason, .. }) => tracing::warn!("no blob can be written: {reason}"),
            result => result?,
        }
        if recovered.needs_checkpoint {
            match directory.checkpoint() {
                Err(Error::Io { context, source }) if disk_full::is_full(&source) => {
                    tracing::warn!("{context}: {source}; the next change repeats the attempt");
                    directory.state.lock().checkpoint_is_overdue = true;
                }
                result => result?,
            }
        }
        Ok(directory)
    }

    /// Damage that was found when the directory was opened.
    pub(crate) fn losses(&self) -> Option<&Losses> {
        self.losses.as_ref()
    }

    /// Creates an empty file to fill and publish; it is removed when dropped.
    pub(crate) fn new_file(&self, digest: Digest) -> Result<NamedTempFile, Error> {
        let temporary = self.root.join("temporary");
        tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o444))
            .tempfile_in(&temporary)
            .map_err(disk_error(
                digest,
                format_args!("cannot create a file in {}", temporary.display()),
            ))
    }

    /// All entries, the least recently used first and the leased ones last.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries.iter().collect()
    }

    /// Number and size of the entries.
    pub(crate) fn usage(&self) -> Usage {
        self.release_pending();
        let state = self.state.lock();
        Usage {
            blobs: state.entries.len() as u64,
            bytes: state.used_bytes,
            reserved_bytes: state.reserved_bytes,
            limit_bytes: self.options.limit,
            leased_bytes: state.entries.leased_blocks() * BLOCK_BYTES,
            corrupt_blobs: self.corrupt_blobs.load(Ordering::Relaxed),
            evicted_blobs: state.evicted_blobs,
        }
    }
}

impl State {
    /// Appends a change of `entries` to the journal.
    fn append<'a>(
        &mut self,
        root: &Path,
        change: Change,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), Error> {
        let mut entries = entries.into_iter().peekable();
        let Some(first) = entries.peek() else {
            return Ok(());
        };
        let digest = first.digest;
        let appended = if self.closed {
            Err(io::Error::other("the store is closed"))
        } else {
            self.journal.append(change, entries)
        };
        appended.map_err(disk_error(
            digest,
            format_args!("cannot write the journal of {}", root.display()),
        ))
    }
}

/// Current time in seconds since 1970.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

/// Number of blocks that `bytes` take, at least one.
fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes.max(1).div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
