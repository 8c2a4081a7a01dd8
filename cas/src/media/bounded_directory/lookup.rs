//! Look-ups of entries, and the opening of their files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use hashbrown::HashSet;

use super::files::file_path;
use super::record::Change;
use super::{BLOCK_BYTES, BoundedDirectory, Entry, Place, State, now};
use crate::error::Error;
use crate::file_stream::read_cached_at;

/// Seconds between two records of use of one entry in the journal: the times of use need not be exact.
pub(super) const TOUCH_INTERVAL_SECONDS: u32 = 600;
/// Digests that are looked up before other threads can take the lock.
const LOOKUP_BATCH_DIGESTS: usize = 4096;

/// Entry, and the open file with its bytes.
pub(crate) struct Located {
    pub(crate) entry: Entry,
    pub(crate) content: Content,
}

/// Open file with the bytes of an entry.
pub(crate) enum Content {
    /// File of its own.
    Whole(File),
    /// Segment, and the offset in it.
    Part(Arc<File>, u64),
}

impl BoundedDirectory {
    /// Those of `digests` that are absent, each once. The others count as used now. Short lists are fast enough for the
    /// threads of the async runtime.
    pub(crate) fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let mut missing = Vec::new();
        let now = now();
        for digests in digests.chunks(LOOKUP_BATCH_DIGESTS) {
            let mut touched = Vec::new();
            let mut state = self.state.lock();
            state.find_all(digests, now, &mut touched, |digest, found| {
                if found.is_none() {
                    missing.push(*digest);
                }
            });
            state.record_uses(&self.root, &touched);
        }
        if missing.len() > 1 {
            let mut seen = HashSet::with_capacity(missing.len());
            missing.retain(|digest| seen.insert(*digest));
        }
        missing
    }

    /// True if the entry is present. It counts as used now.
    pub(crate) fn touch(&self, digest: Digest) -> bool {
        self.missing(&[digest]).is_empty()
    }

    /// Digest of the entry with this hash, whatever its size. It counts as used now.
    pub(crate) fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Option<Digest> {
        let mut touched = Vec::new();
        let mut state = self.state.lock();
        let digest = state.entries.resolve(function, &hash)?;
        state.find(&digest, now(), &mut touched);
        state.record_uses(&self.root, &touched);
        Some(digest)
    }

    /// Opens entries, each [`Error::NotFound`] if it is absent. They count as used now.
    pub(crate) fn locate(&self, digests: &[Digest]) -> Vec<Result<Located, Error>> {
        let now = now();
        let mut touched = Vec::new();
        let mut found = Vec::with_capacity(digests.len());
        let mut state = self.state.lock();
        let mut entries = Vec::with_capacity(digests.len());
        state.find_all(digests, now, &mut touched, |digest, found| {
            entries.push(found.ok_or(Error::NotFound(*digest)));
        });
        for entry in entries {
            found.push(entry.and_then(|entry| match entry.place {
                Place::File(_) => Ok((entry, None)),
                Place::Segment { number, .. } => {
                    let file = state.segments.file(number);
                    let file = file.map_err(Error::io("cannot open a segment"))?;
                    Ok((entry, Some(file)))
                }
            }));
        }
        state.record_uses(&self.root, &touched);
        drop(state);
        let open = |found: Result<(Entry, Option<Arc<File>>), Error>| {
            let (entry, file) = found?;
            self.open_entry(entry, file)
        };
        found.into_iter().map(open).collect()
    }

    /// Stored bytes of an entry in a segment, with the padding of its last block, if they are in the page cache. It
    /// counts as used now. After `None` the entry may be present all the same: use [`locate`](Self::locate) then.
    pub(crate) fn read_cached(&self, digest: Digest) -> Option<(Entry, Bytes)> {
        let mut touched = Vec::new();
        let mut state = self.state.lock();
        let entry = state.find(&digest, now(), &mut touched)?;
        state.record_uses(&self.root, &touched);
        let Place::Segment { number, block } = entry.place else {
            return None;
        };
        let file = state.segments.file(number).ok()?;
        drop(state);
        let size = usize::try_from(u64::from(entry.blocks) * BLOCK_BYTES).ok()?;
        let bytes = read_cached_at(&file, u64::from(block) * BLOCK_BYTES, size)?;
        Some((entry, bytes))
    }

    /// Opens an entry, which does not count as a use.
    pub(crate) fn peek(&self, digest: Digest) -> Result<Located, Error> {
        let mut state = self.state.lock();
        let entry = state.entries.get(&digest).ok_or(Error::NotFound(digest))?;
        let file = match entry.place {
            Place::File(_) => None,
            Place::Segment { number, .. } => {
                let file = state.segments.file(number);
                Some(file.map_err(Error::io("cannot open a segment"))?)
            }
        };
        drop(state);
        self.open_entry(entry, file)
    }

    fn open_entry(&self, entry: Entry, segment: Option<Arc<File>>) -> Result<Located, Error> {
        let content = match (entry.place, segment) {
            (Place::Segment { block, .. }, Some(file)) => Content::Part(file, u64::from(block) * BLOCK_BYTES),
            _ => Content::Whole(self.open_file(&entry)?),
        };
        Ok(Located { entry, content })
    }

    fn open_file(&self, entry: &Entry) -> Result<File, Error> {
        let path = file_path(&self.root, entry);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It was evicted meanwhile, or another program removed the file.
                self.forget(entry);
                Err(Error::NotFound(entry.digest))
            }
            Err(error) => Err(Error::io(format_args!("cannot open {}", path.display()))(error)),
        }
    }

    /// Path of the file of an entry, for messages.
    pub(crate) fn describe(&self, entry: &Entry) -> String {
        match entry.place {
            Place::File(_) => file_path(&self.root, entry).display().to_string(),
            Place::Segment { number, block } => {
                format!("block {block} of segment {number} of {}", self.root.display())
            }
        }
    }
}

impl State {
    /// Looks up an entry, which counts as used now. If the journal has to record the use, it is added to `touched`.
    fn find(&mut self, digest: &Digest, now: u32, touched: &mut Vec<Entry>) -> Option<Entry> {
        let mut found = None;
        self.find_all(std::slice::from_ref(digest), now, touched, |_, entry| {
            found = entry;
        });
        found
    }

    /// Looks up many entries, which is faster than one by one.
    fn find_all(
        &mut self,
        digests: &[Digest],
        now: u32,
        touched: &mut Vec<Entry>,
        mut visit: impl FnMut(&Digest, Option<Entry>),
    ) {
        let before = touched.len();
        self.entries.promote_all(digests, |digest, found| {
            let is_new_use = |entry: &Entry| now.saturating_sub(entry.last_use) >= TOUCH_INTERVAL_SECONDS;
            touched.extend(found.filter(is_new_use).map(|entry| Entry {
                last_use: now,
                ..entry
            }));
            visit(digest, found);
        });
        for entry in &touched[before..] {
            self.entries.set_last_use(&entry.digest, now);
        }
    }

    /// Records uses in the journal.
    fn record_uses(&mut self, root: &Path, touched: &[Entry]) {
        if !touched.is_empty()
            && !self.closed
            && let Err(error) = self.append(root, Change::Touch, touched)
        {
            // Only the order of use after the next start is affected.
            tracing::warn!(%error, "cannot record the use of blobs in the journal");
        }
    }
}
