//! Journal: the changes since the last index snapshot.
//!
//! A file of records, the first of which names the boot that wrote it. A record of an entry in a file of its own is
//! appended before that file appears or is removed, so a process that dies in between leaves a record to check, never
//! an unknown file. A record of an entry in a segment is appended after its bytes were written and before they are
//! removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::Entry;
use super::disk_full::is_full;
use super::index_snapshot::sync_directory;
use super::record::{self, Change, RECORD_BYTES};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"bitzelj3";
/// Name of a journal whose header is being written.
pub(super) const UNFINISHED: &str = "unfinished-journal";
/// Bytes that the journal allocates in advance: a full disk must not prevent the journal from recording evictions.
const PREALLOCATED_BYTES: u64 = 1 << 20;

/// Journal that is being written.
pub(super) struct Journal {
    /// Directory of the journal.
    index: PathBuf,
    /// `None` until the disk has space for it.
    file: Option<File>,
    number: u64,
    /// Bytes of the header and the records.
    length: u64,
    /// Bytes that the file system has allocated.
    allocated: u64,
}

/// Content of a journal.
pub(super) struct Replay {
    /// Changes in order.
    pub(super) changes: Vec<(Change, Entry)>,
    /// Origin of the journal.
    pub(super) origin: Origin,
    /// Number of damaged records.
    pub(super) damaged: u64,
}

/// Origin of a journal, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was written since the last start of the machine.
    ThisBoot,
    /// The machine was restarted since. The disk may lack what the records name.
    OtherBoot,
    /// The header is damaged or missing.
    Unknown,
}

pub(super) fn path(index: &Path, number: u64) -> PathBuf {
    index.join(format!("journal-{number:020}"))
}

impl Journal {
    /// Starts a journal and syncs it to disk, so that the next start can read which boot it belongs to.
    ///
    /// It gets its name when its header is complete: a process that dies before leaves a file that no start reads. A
    /// journal without a header would look like a crash of the machine, and all entries since the last snapshot would
    /// be lost.
    pub(super) fn create(index: &Path, number: u64) -> Result<Self, Error> {
        let path = path(index, number);
        let file =
            make_file(index, number).map_err(Error::io(format_args!("cannot create {}", path.display())))?;
        let mut journal = Self::without_file(index, number);
        journal.allocated = allocate(&file, journal.length).unwrap_or(0);
        journal.file = Some(file);
        Ok(journal)
    }

    /// Starts a journal as [`Journal::create`] does. On a full disk, the file is made by the first change that finds
    /// space for it; until then every change is refused, and the index stays correct.
    pub(super) fn start(index: &Path, number: u64) -> Result<Self, Error> {
        match Self::create(index, number) {
            Err(Error::Io { context, source }) if is_full(&source) => {
                tracing::warn!(
                    "{context}: {source}; blobs that are there are served, and nothing changes until there is space"
                );
                Ok(Self::without_file(index, number))
            }
            result => result,
        }
    }

    fn without_file(index: &Path, number: u64) -> Self {
        Self {
            index: index.to_owned(),
            file: None,
            number,
            length: RECORD_BYTES as u64,
            allocated: 0,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn records(&self) -> u64 {
        self.length / RECORD_BYTES as u64 - 1
    }

    pub(super) fn append<'a>(
        &mut self,
        change: Change,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> io::Result<()> {
        let records: Vec<u8> = entries
            .into_iter()
            .flat_map(|entry| record::encode(change, entry))
            .collect();
        let length = self.length;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(make_file(&self.index, self.number)?),
        };
        let written = file.write_all(&records);
        if written.is_err() {
            // A full disk may have stored half a record; the next record must not start after it.
            file.set_len(length)?;
            self.allocated = length;
            return written;
        }
        self.length += records.len() as u64;
        if self.length + PREALLOCATED_BYTES / 2 > self.allocated
            && let Some(allocated) = allocate(file, self.length)
        {
            self.allocated = allocated;
        }
        Ok(())
    }
}

fn make_file(index: &Path, number: u64) -> io::Result<File> {
    let unfinished = index.join(UNFINISHED);
    let mut file = OpenOptions::new().append(true).create(true).open(&unfinished)?;
    file.set_len(0)?;
    file.write_all(&record::header(MAGIC)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, path(index, number))?;
    sync_directory(index)?;
    Ok(file)
}

/// Allocates blocks beyond a journal of this length, and returns where they end. `None` on a file system that cannot;
/// the journal then allocates with each write.
fn allocate(file: &File, length: u64) -> Option<u64> {
    rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, length, PREALLOCATED_BYTES).ok()?;
    Some(length + PREALLOCATED_BYTES)
}

/// Reads a journal. A record that is cut off at the end was never acknowledged and is left out.
pub(super) fn replay(path: &Path) -> Result<Replay, Error> {
    let failed = |error| Error::io(format_args!("cannot read {}", path.display()))(error);
    let file = File::open(path).map_err(failed)?;
    let own_header = record::header(MAGIC).map_err(failed)?;
    let mut replay = Replay {
        changes: Vec::new(),
        origin: Origin::Unknown,
        damaged: 0,
    };
    let mut is_first = true;
    let visit = |record: &[u8; RECORD_BYTES]| {
        if std::mem::take(&mut is_first) {
            replay.origin = match record {
                header if *header == own_header => Origin::ThisBoot,
                header if record::is_header(header, MAGIC) => Origin::OtherBoot,
                _ => Origin::Unknown,
            };
            return;
        }
        match record::decode(record) {
            Some(change) => replay.changes.push(change),
            None => replay.damaged += 1,
        }
    };
    record::for_each(&file, visit).map_err(failed)?;
    Ok(replay)
}
