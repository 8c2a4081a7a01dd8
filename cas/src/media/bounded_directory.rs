//! A directory of files that never grows beyond its limit and survives the death of its process at any point.
//!
//! Both the store and the action cache on disk are built on it. Files are named by digests and appear whole or not
//! at all. When room is needed, the least recently used go. The order of use, and what is there at all, is kept in
//! memory and in an index on disk:
//!
//! - `segments/{number}`: small entries, many in one file, each at the start of a block (`segments.rs`);
//! - `blobs/{function}/{first two digits}/{hash}-{size}`: large ones, a read-only file each;
//! - `temporary/`: files being written, removed when the directory is opened;
//! - `quarantine/`: entries whose content was wrong, the first to go when room is needed;
//! - `index/snapshot-{n}` and `index/journal-{n}`: the entries in order of use, and what happened since;
//! - `lock`: held by the one process that uses the directory.
//!
//! **After the death of the process** (`kill -9` included) everything published is there, because the page cache
//! outlives processes. The journal names a small entry after its bytes were written, and a file before it appears or
//! goes, so opening looks at the files that the journal names and at no others: two million entries take no directory
//! scan. Blocks that were written and never named are given back.
//!
//! **After a power loss** or a crash of the kernel (told by another boot id) only what the last snapshot lists is
//! kept: the file system is synced before a snapshot counts, and never for single entries, which would cost
//! milliseconds each. Snapshots are taken on clean shutdown, every five minutes of activity, and when the journal
//! gets long. A scan then removes what is not in the snapshot and forgets what is gone. Lost blobs are blobs that
//! have to be built again, never wrong ones.
//!
//! **On a full disk** it opens and serves what is there. The journal is made by the first change that finds room;
//! until then writes and evictions are refused for lack of space.
//!
//! All functions here block; callers keep them off the threads of the async runtime. Exceptions say so.

mod checkpoint;
mod entries;
mod eviction;
mod journal;
mod lease;
mod looking;
mod placing;
mod record;
mod recovery;
mod segments;
mod snapshot;

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use bitzel_proto::{Digest, DigestFunction};
use parking_lot::{Condvar, Mutex};
use tempfile::{NamedTempFile, PersistError};

pub(crate) use self::checkpoint::CHECKPOINT_RECORDS;
use self::entries::Entries;
pub(crate) use self::entries::{Checksum, Encoding, Entry, Place};
use self::journal::Journal;
pub(crate) use self::lease::DirectoryLease;
pub(crate) use self::looking::{Content, Located};
pub(crate) use self::placing::{FileContent, Parcel, disk_error};
use self::record::Change;
use self::segments::Segments;
use crate::directory_lock::DirectoryLock;
use crate::error::Error;

/// File systems give out space in blocks; small entries would otherwise hide most of what they take.
pub(crate) const BLOCK: u64 = 4096;
/// Ends the names of compressed files.
const ZSTD_SUFFIX: &str = ".zst";

/// The limits and the content of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Bytes that all entries together may take, in blocks of 4 KiB.
    pub(crate) limit: u64,
    /// Bytes that the file system must keep free.
    pub(crate) free_space_floor: u64,
    /// Records in the journal that start a snapshot.
    pub(crate) checkpoint_records: u64,
    /// Whether a file that no index vouches for is what its name says.
    pub(crate) is_intact: fn(&Path, Digest) -> bool,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Bytes that they take, in blocks of 4 KiB, quarantined ones included.
    pub bytes: u64,
    /// Bytes set aside for blobs being written.
    pub reserved_bytes: u64,
    /// Bytes that they may take.
    pub limit_bytes: u64,
    /// Bytes that must not be evicted, because running actions need them.
    pub leased_bytes: u64,
    /// Corrupt blobs found since the start.
    pub corrupt_blobs: u64,
    /// Blobs evicted since the start.
    pub evicted_blobs: u64,
}

pub(crate) struct BoundedDirectory {
    root: PathBuf,
    options: Options,
    /// Whether the file system can keep many entries in one file.
    has_segments: bool,
    state: Mutex<State>,
    /// What dropped leases held.
    released: Mutex<Vec<Vec<Digest>>>,
    /// Signalled when evicted blocks were given back.
    gave_back: Condvar,
    /// Held while a snapshot is written: one at a time.
    checkpointing: Mutex<()>,
    corrupt: AtomicU64,
    /// Locked as long as it is open.
    _lock: DirectoryLock,
}

struct State {
    entries: Entries,
    segments: Segments,
    /// Bytes of entries and quarantine.
    used: u64,
    /// Bytes of `used` that are about to be given back.
    leaving: u64,
    reserved: u64,
    evictions: u64,
    quarantine: VecDeque<(PathBuf, u64)>,
    journal: Journal,
    checkpointed: Instant,
    checkpoint_requested: bool,
    /// Whether the last one did not come about.
    checkpoint_is_overdue: bool,
    closed: bool,
}

/// Room for what is being written, given back on drop unless it was published.
pub(crate) struct Reservation {
    directory: Arc<BoundedDirectory>,
    bytes: u64,
}

impl Reservation {
    /// Makes it `bytes` large if it is smaller; evicts for that.
    pub(crate) fn grow_to(&mut self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let bytes = whole_blocks(bytes);
        if bytes > self.bytes {
            self.directory.make_room(digest, bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// What was reserved is in use now.
    fn spend(&mut self, state: &mut State) {
        state.reserved -= std::mem::take(&mut self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.directory.state.lock().reserved -= self.bytes;
        }
    }
}

impl BoundedDirectory {
    /// Opens or creates the directory at `root`.
    pub(crate) fn open(root: &Path, options: Options) -> Result<Self, Error> {
        for name in ["quarantine", "index"] {
            make_directory(&root.join(name))?;
        }
        let lock = DirectoryLock::acquire(root).map_err(Error::io(format!(
            "cannot lock {}: another process uses this store; stop it or choose another directory",
            root.join("lock").display()
        )))?;
        let temporary = root.join("temporary");
        make_directory(&temporary)?;
        empty(&temporary)?;
        let recovered = recovery::recover(root, options.is_intact, options.checkpoint_records)?;
        let quarantine = quarantined(&root.join("quarantine"))?;
        let blocks = |entry: Entry| u64::from(entry.blocks);
        let used = recovered.entries.iter().map(blocks).sum::<u64>() * BLOCK
            + quarantine.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let segments = Segments::open(root, &recovered.entries)?;
        let directory = Self {
            root: root.to_owned(),
            options,
            has_segments: Segments::are_supported(&temporary),
            state: Mutex::new(State {
                entries: recovered.entries,
                segments,
                used,
                leaving: 0,
                reserved: 0,
                evictions: 0,
                quarantine,
                journal: recovered.journal,
                checkpointed: Instant::now(),
                checkpoint_requested: false,
                checkpoint_is_overdue: false,
                closed: false,
            }),
            released: Mutex::default(),
            gave_back: Condvar::new(),
            checkpointing: Mutex::new(()),
            corrupt: AtomicU64::new(0),
            _lock: lock,
        };
        // The limit may be lower than last time. A disk that is too full for the free space floor is no reason not
        // to serve what is there.
        match directory.make_room(DigestFunction::default().digest(&[]), 0) {
            Err(Error::NoSpace { reason, .. }) => tracing::warn!("no blob can be written: {reason}"),
            result => result?,
        }
        if recovered.needs_checkpoint {
            match directory.checkpoint() {
                Err(Error::Io { context, source }) if placing::is_full(&source) => {
                    tracing::warn!("{context}: {source}; the next change tries again");
                    directory.state.lock().checkpoint_is_overdue = true;
                }
                result => result?,
            }
        }
        Ok(directory)
    }

    /// Makes room for so many bytes of `digest`, evicting others. [`Error::NoSpace`] when that does not help.
    pub(crate) fn reserve(self: &Arc<Self>, digest: Digest, bytes: u64) -> Result<Reservation, Error> {
        let bytes = whole_blocks(bytes.max(1));
        self.make_room(digest, bytes)?;
        Ok(Reservation {
            directory: Arc::clone(self),
            bytes,
        })
    }

    /// An empty file to fill and publish; it goes when dropped.
    pub(crate) fn new_file(&self, digest: Digest) -> Result<NamedTempFile, Error> {
        let temporary = self.root.join("temporary");
        tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o444))
            .tempfile_in(&temporary)
            .map_err(disk_error(digest, || {
                format!("cannot create a file in {}", temporary.display())
            }))
    }

    /// Everything, the least recently used first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries.iter().collect()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.release();
        let state = self.state.lock();
        Usage {
            blobs: state.entries.len() as u64,
            bytes: state.used,
            reserved_bytes: state.reserved,
            limit_bytes: self.options.limit,
            leased_bytes: state.entries.leased_blocks() * BLOCK,
            corrupt_blobs: self.corrupt.load(Ordering::Relaxed),
            evicted_blobs: state.evictions,
        }
    }
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

impl State {
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
        appended.map_err(disk_error(digest, || {
            format!("cannot write the journal of {}", root.display())
        }))
    }
}

/// Seconds since 1970.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

/// Blocks that so many bytes take; nothing is larger than a file can be.
fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes.max(1).div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

fn file_path(root: &Path, entry: &Entry) -> PathBuf {
    let name = file_name(entry.digest, entry.encoding);
    root.join("blobs")
        .join(entry.digest.function().name())
        .join(&name[..2])
        .join(name)
}

fn file_name(digest: Digest, encoding: Encoding) -> String {
    let suffix = match encoding {
        Encoding::Raw => "",
        Encoding::Zstd => ZSTD_SUFFIX,
    };
    format!("{}-{}{suffix}", digest.hash_hex(), digest.size_bytes())
}

fn make_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("cannot create {}", path.display())))
}

/// The directory of a shard is made with its first file: a store of few blobs should not cost 512 directories.
fn move_into_place(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    let failed = || Error::io(format!("cannot move a finished file to {}", path.display()));
    match file.persist(path) {
        Ok(_) => Ok(()),
        Err(PersistError { error, file }) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path.parent().unwrap_or(path))?;
            file.persist(path).map_err(|error| failed()(error.error))?;
            Ok(())
        }
        Err(error) => Err(failed()(error.error)),
    }
}

/// Removes the files in a directory, and not the directory: a full disk could not make it again.
fn empty(directory: &Path) -> Result<(), Error> {
    let failed = || Error::io(format!("cannot list {}", directory.display()));
    for entry in fs::read_dir(directory).map_err(failed())? {
        remove_file(&entry.map_err(failed())?.path())?;
    }
    Ok(())
}

/// Removes a file; one that is gone already is fine.
fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn quarantined(directory: &Path) -> Result<VecDeque<(PathBuf, u64)>, Error> {
    let failed = || format!("cannot list {}", directory.display());
    let mut files = VecDeque::new();
    for entry in fs::read_dir(directory).map_err(Error::io(failed()))? {
        let entry = entry.map_err(Error::io(failed()))?;
        let size = entry.metadata().map_err(Error::io(failed()))?.len();
        files.push_back((entry.path(), size.max(1).next_multiple_of(BLOCK)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
