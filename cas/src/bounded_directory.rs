//! A directory of files that never grows beyond its limit and survives the death of its process at any point.
//!
//! Both the store and the action cache on disk are built on it. Files are named by digests and appear whole or not
//! at all. When room is needed, the least recently used go. The order of use, and what is there at all, is kept in
//! memory and in an index on disk:
//!
//! - `blobs/{function}/{first two digits}/{hash}-{size}`: the files, read-only;
//! - `temporary/`: files being written, removed when the directory is opened;
//! - `quarantine/`: files whose content was wrong, the first to go when room is needed;
//! - `index/snapshot-{n}` and `index/journal-{n}`: the files in order of use, and what happened since;
//! - `lock`: held by the one process that uses the directory.
//!
//! **After the death of the process** (`kill -9` included) everything published is there, because the page cache
//! outlives processes. The journal names a file before the file appears or goes, so opening looks at the files that
//! the journal names and at no others: two million files take no directory scan.
//!
//! **After a power loss** or a crash of the kernel (told by another boot id) only what the last snapshot lists is
//! kept: the file system is synced before a snapshot counts, and never for single files, which would cost
//! milliseconds each. Snapshots are taken on clean shutdown, every five minutes of activity, and when the journal
//! gets long. A scan then removes files that are not in the snapshot and forgets those that are gone. Lost blobs
//! are blobs that have to be built again, never wrong ones.
//!
//! All functions here block; callers keep them off the threads of the async runtime.

mod checkpoint;
mod eviction;
mod journal;
mod recovery;
mod snapshot;

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitzel_proto::{Digest, DigestFunction};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tempfile::{NamedTempFile, PersistError};

use self::journal::{Change, Journal};
use crate::error::Error;

/// File systems give out space in blocks; small files would otherwise hide most of what they take.
const BLOCK: u64 = 4096;
/// A use is written to the journal at most this often for each file: the order of use need not be exact.
const TOUCH_INTERVAL: Duration = Duration::from_mins(10);

/// The limits and the content of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Bytes that all files together may take, in blocks of 4 KiB.
    pub(crate) limit: u64,
    /// Bytes that the file system must keep free.
    pub(crate) free_space_floor: u64,
    /// Whether a file that no index vouches for is what its name says.
    pub(crate) is_intact: fn(&Path, Digest) -> bool,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Files.
    pub blobs: u64,
    /// Bytes that they take, in blocks of 4 KiB, quarantined ones included.
    pub bytes: u64,
    /// Bytes set aside for files being written.
    pub reserved_bytes: u64,
    /// Bytes that they may take.
    pub limit_bytes: u64,
    /// Corrupt files found since the start.
    pub corrupt_blobs: u64,
}

pub(crate) struct BoundedDirectory {
    root: PathBuf,
    options: Options,
    state: Mutex<State>,
    /// Held while a snapshot is written: one at a time.
    checkpointing: Mutex<()>,
    corrupt: AtomicU64,
    /// Locked as long as it is open.
    _lock: File,
}

struct State {
    /// Seconds since `opened` at which the last use was written to the journal.
    entries: LruCache<Digest, u64>,
    /// Bytes of entries and quarantine.
    used: u64,
    reserved: u64,
    quarantine: VecDeque<(PathBuf, u64)>,
    journal: Journal,
    opened: Instant,
    checkpointed: Instant,
    closed: bool,
}

/// Room for one file, given back on drop unless the file was published.
pub(crate) struct Reservation {
    directory: Arc<BoundedDirectory>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.directory.state.lock().reserved -= self.bytes;
    }
}

impl BoundedDirectory {
    /// Opens or creates the directory at `root`.
    pub(crate) fn open(root: &Path, options: Options) -> Result<Self, Error> {
        for name in ["quarantine", "index"] {
            make_directory(&root.join(name))?;
        }
        let lock = lock(root)?;
        let temporary = root.join("temporary");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove {}", temporary.display()))(error));
            }
            _ => make_directory(&temporary)?,
        }
        let recovered = recovery::recover(root, options.is_intact)?;
        let quarantine = quarantined(&root.join("quarantine"))?;
        let used = recovered
            .entries
            .iter()
            .map(|(digest, _)| weight(*digest))
            .sum::<u64>()
            + quarantine.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let now = Instant::now();
        let directory = Self {
            root: root.to_owned(),
            options,
            state: Mutex::new(State {
                entries: recovered.entries,
                used,
                reserved: 0,
                quarantine,
                journal: recovered.journal,
                opened: now,
                checkpointed: now,
                closed: false,
            }),
            checkpointing: Mutex::new(()),
            corrupt: AtomicU64::new(0),
            _lock: lock,
        };
        if recovered.needs_checkpoint {
            directory.checkpoint()?;
        }
        // The limit may be lower than last time. A disk that is too full for the free space floor is no reason not
        // to serve what is there.
        match directory.make_room(0, || "the store".to_owned()) {
            Err(Error::NoSpace { reason, .. }) => tracing::warn!("no blob can be written: {reason}"),
            result => result?,
        }
        Ok(directory)
    }

    /// Where the file of `digest` is, if it is there.
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        path(&self.root, digest)
    }

    /// Those of `digests` that are not there, each once; the others count as used now.
    pub(crate) fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let mut missing = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut state = self.state.lock();
        let mut touched = Vec::new();
        let now = state.opened.elapsed().as_secs();
        for digest in digests {
            match state.entries.get_mut(digest) {
                Some(journaled) if now.saturating_sub(*journaled) >= TOUCH_INTERVAL.as_secs() => {
                    *journaled = now;
                    touched.push((Change::Touch, *digest));
                }
                None if seen.insert(*digest) => missing.push(*digest),
                Some(_) | None => {}
            }
        }
        if !touched.is_empty()
            && !state.closed
            && let Err(error) = state.journal.append(&touched)
        {
            // Only the order of use after the next start suffers.
            tracing::warn!(%error, "cannot note uses in the journal");
        }
        missing
    }

    /// Whether the file is there; it counts as used now.
    pub(crate) fn touch(&self, digest: Digest) -> bool {
        self.missing(&[digest]).is_empty()
    }

    /// Makes room for the file of `digest`, evicting others. [`Error::NoSpace`] when that does not help.
    pub(crate) fn reserve(self: &Arc<Self>, digest: Digest) -> Result<Reservation, Error> {
        let bytes = weight(digest);
        let reserved = self.make_room(bytes, || format!("blob {digest}"));
        reserved.map_err(|error| match error {
            Error::NoSpace { reason, .. } => Error::NoSpace { digest, reason },
            error => error,
        })?;
        Ok(Reservation {
            directory: Arc::clone(self),
            bytes,
        })
    }

    /// An empty file to fill and publish; it goes when dropped.
    pub(crate) fn new_file(&self) -> Result<NamedTempFile, Error> {
        let temporary = self.root.join("temporary");
        tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o444))
            .tempfile_in(&temporary)
            .map_err(Error::io(format!(
                "cannot create a file in {}",
                temporary.display()
            )))
    }

    /// Makes a written file the one of `digest`. One that is there already stays, or makes way if `replace`.
    pub(crate) fn publish(
        self: &Arc<Self>,
        digest: Digest,
        file: NamedTempFile,
        reservation: Reservation,
        replace: bool,
    ) -> Result<(), Error> {
        let path = self.path(digest);
        let mut state = self.state.lock();
        let present = state.entries.contains(&digest);
        if present {
            state.entries.promote(&digest);
            if !replace {
                drop(state);
                // The file is removed and the room given back outside of the lock.
                return Ok(());
            }
        } else {
            state.append(&self.root, &[(Change::Add, digest)])?;
        }
        move_into_place(file, &path)?;
        if !present {
            let now = state.opened.elapsed().as_secs();
            state.entries.put(digest, now);
            state.used += reservation.bytes;
        }
        let due = state.checkpoint_is_due();
        drop(state);
        drop(reservation);
        if due {
            self.checkpoint_in_background();
        }
        Ok(())
    }

    /// Forgets a file that turned out to be gone.
    pub(crate) fn forget(&self, digest: Digest) {
        let mut state = self.state.lock();
        if !self.path(digest).exists() && state.entries.pop(&digest).is_some() {
            state.used -= weight(digest);
            // Without the record, the next start finds the same and forgets again.
            let _ = state.append(&self.root, &[(Change::Remove, digest)]);
        }
    }

    /// Takes a file with wrong content out of service.
    pub(crate) fn quarantine(&self, digest: Digest) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%digest, "the file of a blob is corrupt; it is in quarantine and the blob is gone");
        let mut state = self.state.lock();
        if state.entries.pop(&digest).is_none() {
            return;
        }
        // Noted or not, the file must not be served again.
        let _ = state.append(&self.root, &[(Change::Remove, digest)]);
        let from = self.path(digest);
        let to = self.root.join("quarantine").join(file_name(digest));
        match fs::rename(&from, &to) {
            Ok(()) => state.quarantine.push_back((to, weight(digest))),
            Err(error) => {
                tracing::error!(%digest, %error, "cannot move a corrupt file to the quarantine; it is removed");
                let _ = fs::remove_file(&from);
                state.used -= weight(digest);
            }
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state.lock();
        Usage {
            blobs: state.entries.len() as u64,
            bytes: state.used,
            reserved_bytes: state.reserved,
            limit_bytes: self.options.limit,
            corrupt_blobs: self.corrupt.load(Ordering::Relaxed),
        }
    }
}

impl State {
    /// Least recently used first.
    fn in_order_of_use(&self) -> Vec<Digest> {
        self.entries.iter().rev().map(|(digest, _)| *digest).collect()
    }

    fn append(&mut self, root: &Path, changes: &[(Change, Digest)]) -> Result<(), Error> {
        let appended = if self.closed {
            Err(io::Error::other("the store is closed"))
        } else {
            self.journal.append(changes)
        };
        appended.map_err(Error::io(format!(
            "cannot write the journal of {}",
            root.display()
        )))
    }
}

/// Bytes that the file of a digest takes, at most.
fn weight(digest: Digest) -> u64 {
    digest.size_bytes().max(1).next_multiple_of(BLOCK)
}

fn path(root: &Path, digest: Digest) -> PathBuf {
    let name = file_name(digest);
    root.join("blobs")
        .join(function_name(digest.function()))
        .join(&name[..2])
        .join(name)
}

fn file_name(digest: Digest) -> String {
    format!("{}-{}", digest.hash_hex(), digest.size_bytes())
}

fn function_name(function: DigestFunction) -> &'static str {
    match function {
        DigestFunction::Sha256 => "sha256",
        DigestFunction::Blake3 => "blake3",
    }
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

/// Removes a file; one that is gone already is fine.
fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(Error::io(format!("cannot create {}", path.display())))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(io::Error::from)
        .map_err(Error::io(format!(
            "cannot lock {}: another process uses this store; stop it or choose another directory",
            path.display()
        )))?;
    Ok(file)
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
