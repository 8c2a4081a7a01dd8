//! Finding entries and opening them, and what becomes of those that turn out to be gone or wrong.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use hashbrown::HashSet;

use super::entries::{Entry, Place};
use super::record::Change;
use super::segments::Waste;
use super::{BLOCK, BoundedDirectory, State, file_name, file_path, now};
use crate::error::Error;
use crate::file_stream::{read_at, read_cached_at};

/// A use is written to the journal at most this often for each entry, in seconds: the times of use need not be exact.
pub(super) const TOUCH_INTERVAL: u32 = 600;
/// Digests that are looked up before other threads get their turn.
const LOOKUPS: usize = 4096;

/// An entry and where to read it.
pub(crate) struct Located {
    pub(crate) entry: Entry,
    pub(crate) content: Content,
}

/// Bytes to be read.
pub(crate) enum Content {
    /// From the start of the file.
    Whole(File),
    /// From an offset.
    Part(Arc<File>, u64),
}

impl BoundedDirectory {
    /// Those of `digests` that are not there, each once; the others count as used now. Short lists are quick enough
    /// for the threads of the async runtime.
    pub(crate) fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let mut missing = Vec::new();
        let now = now();
        for digests in digests.chunks(LOOKUPS) {
            let mut touched = Vec::new();
            let mut state = self.state.lock();
            state.find_all(digests, now, &mut touched, |digest, found| {
                if found.is_none() {
                    missing.push(*digest);
                }
            });
            state.note_uses(&self.root, &touched);
        }
        if missing.len() > 1 {
            let mut seen = HashSet::with_capacity(missing.len());
            missing.retain(|digest| seen.insert(*digest));
        }
        missing
    }

    /// Whether the entry is there; it counts as used now.
    pub(crate) fn touch(&self, digest: Digest) -> bool {
        self.missing(&[digest]).is_empty()
    }

    /// The entry with this hash, whatever its size; it counts as used now.
    pub(crate) fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Option<Digest> {
        let mut touched = Vec::new();
        let mut state = self.state.lock();
        let digest = state.entries.resolve(function, &hash)?;
        state.find(&digest, now(), &mut touched);
        state.note_uses(&self.root, &touched);
        Some(digest)
    }

    /// Where the entries are, each [`Error::NotFound`] when it is not there; they count as used now.
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
        state.note_uses(&self.root, &touched);
        drop(state);
        let open = |found: Result<(Entry, Option<Arc<File>>), Error>| {
            let (entry, file) = found?;
            self.open_entry(entry, file)
        };
        found.into_iter().map(open).collect()
    }

    /// The stored bytes of an entry in a segment, with what fills its last block, if they need no wait for the disk; it
    /// counts as used now. `None` says nothing about whether it is there: [`locate`](Self::locate) does.
    pub(crate) fn read_cached(&self, digest: Digest) -> Option<(Entry, Bytes)> {
        let mut touched = Vec::new();
        let mut state = self.state.lock();
        let entry = state.find(&digest, now(), &mut touched)?;
        state.note_uses(&self.root, &touched);
        let Place::Segment { number, block } = entry.place else {
            return None;
        };
        let file = state.segments.file(number).ok()?;
        drop(state);
        let size = usize::try_from(u64::from(entry.blocks) * BLOCK).ok()?;
        let bytes = read_cached_at(&file, u64::from(block) * BLOCK, size)?;
        Some((entry, bytes))
    }

    /// Where an entry is, which does not count as a use.
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
            (Place::Segment { block, .. }, Some(file)) => Content::Part(file, u64::from(block) * BLOCK),
            _ => Content::Whole(self.open_file(&entry)?),
        };
        Ok(Located { entry, content })
    }

    fn open_file(&self, entry: &Entry) -> Result<File, Error> {
        let path = file_path(&self.root, entry);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Evicted just now, or removed by somebody else.
                self.forget(entry);
                Err(Error::NotFound(entry.digest))
            }
            Err(error) => Err(Error::io(format!("cannot open {}", path.display()))(error)),
        }
    }

    /// Forgets a file that turned out to be gone.
    fn forget(&self, entry: &Entry) {
        let mut state = self.state.lock();
        let is_there = file_path(&self.root, entry).exists();
        if !is_there && state.remove_if_unchanged(entry) {
            state.used -= u64::from(entry.blocks) * BLOCK;
            // Without the record, the next start finds the same and forgets again.
            let _ = state.append(&self.root, Change::Remove, &[*entry]);
        }
    }

    /// Takes an entry whose content, as it was read, is wrong out of service. `false`, and nothing happens, if it was
    /// evicted or replaced while it was read, which leaves a hole to be read.
    pub(crate) fn quarantine(&self, entry: &Entry) -> bool {
        let mut state = self.state.lock();
        if !state.remove_if_unchanged(entry) {
            return false;
        }
        let digest = entry.digest;
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%digest, "the bytes of a blob are corrupt; they are in quarantine and the blob is gone");
        // Noted or not, it must not be served again.
        let _ = state.append(&self.root, Change::Remove, &[*entry]);
        let to = self
            .root
            .join("quarantine")
            .join(file_name(digest, entry.encoding));
        let bytes = u64::from(entry.blocks) * BLOCK;
        let (moved, waste) = match entry.place {
            Place::File(_) => (fs::rename(file_path(&self.root, entry), &to), None),
            Place::Segment { number, block } => {
                let copied = state.segments.file(number).and_then(|file| {
                    let content = read_at(&file, u64::from(block) * BLOCK, bytes)?;
                    fs::write(&to, content)
                });
                (copied, state.segments.free(number, block, entry.blocks).ok())
            }
        };
        match moved {
            Ok(()) => state.quarantine.push_back((to, bytes)),
            Err(error) => {
                tracing::error!(%digest, %error, "cannot move a corrupt blob to the quarantine; it is removed");
                let _ = fs::remove_file(file_path(&self.root, entry));
                state.used -= bytes;
            }
        }
        drop(state);
        if let Err(error) = Waste::give_back(waste.into_iter().collect()) {
            tracing::error!(%digest, %error, "cannot give back the blocks of a corrupt blob");
        }
        true
    }

    /// Where the file of an entry is, for messages.
    pub(crate) fn describe(&self, entry: &Entry) -> String {
        match entry.place {
            Place::File(_) => file_path(&self.root, entry).display().to_string(),
            Place::Segment { number, block } => {
                format!("block {block} of segment {number} of {}", self.root.display())
            }
        }
    }

    /// Changes bytes on the disk, as a bad disk does.
    #[cfg(test)]
    pub(crate) fn damage(&self, digest: Digest, change: impl FnOnce(&mut Vec<u8>)) {
        use std::os::unix::fs::FileExt;
        let mut state = self.state.lock();
        let entry = state.entries.get(&digest).unwrap();
        let length = u64::from(entry.blocks) * BLOCK;
        match entry.place {
            Place::File(_) => {
                let path = file_path(&self.root, &entry);
                let mut content = fs::read(&path).unwrap();
                change(&mut content);
                fs::remove_file(&path).unwrap();
                fs::write(&path, content).unwrap();
            }
            Place::Segment { number, block } => {
                let file = state.segments.file(number).unwrap();
                let offset = u64::from(block) * BLOCK;
                let mut content = read_at(&file, offset, length).unwrap().to_vec();
                change(&mut content);
                file.write_all_at(&content, offset).unwrap();
            }
        }
    }
}

impl State {
    /// An entry, which counts as used now. What the journal has to know of that comes to `touched`.
    fn find(&mut self, digest: &Digest, now: u32, touched: &mut Vec<Entry>) -> Option<Entry> {
        let mut found = None;
        self.find_all(std::slice::from_ref(digest), now, touched, |_, entry| {
            found = entry;
        });
        found
    }

    /// The same for many, which is faster.
    fn find_all(
        &mut self,
        digests: &[Digest],
        now: u32,
        touched: &mut Vec<Entry>,
        mut visit: impl FnMut(&Digest, Option<Entry>),
    ) {
        let before = touched.len();
        self.entries.promote_all(digests, |digest, found| {
            let is_new_use = |entry: &Entry| now.saturating_sub(entry.used) >= TOUCH_INTERVAL;
            touched.extend(found.filter(is_new_use).map(|entry| Entry { used: now, ..entry }));
            visit(digest, found);
        });
        for entry in &touched[before..] {
            self.entries.set_used(&entry.digest, now);
        }
    }

    fn note_uses(&mut self, root: &Path, touched: &[Entry]) {
        if !touched.is_empty()
            && !self.closed
            && let Err(error) = self.append(root, Change::Touch, touched)
        {
            // Only the order of use after the next start suffers.
            tracing::warn!(%error, "cannot note uses in the journal");
        }
    }

    /// Whether the entry was still what it was, and is gone now.
    fn remove_if_unchanged(&mut self, entry: &Entry) -> bool {
        let present = self.entries.get(&entry.digest);
        present.is_some_and(|present| present.place == entry.place)
            && self.entries.remove(&entry.digest).is_some()
    }
}
