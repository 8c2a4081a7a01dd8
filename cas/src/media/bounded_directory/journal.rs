//! What happened since the last snapshot.
//!
//! A file of records, the first of which names the boot that wrote it. A record of a blob in a file of its own is
//! appended before that file appears or goes, so a process that dies in between leaves a record to check, never a file
//! that nobody knows. A record of a blob in a segment is appended after its bytes were written and before they go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::entries::Entry;
use super::placing::is_full;
use super::record::{self, Change, RECORD};
use super::snapshot::sync_directory;
use crate::error::Error;

const MAGIC: [u8; 8] = *b"bitzelj3";
/// The name of a journal whose header is being written.
pub(super) const UNFINISHED: &str = "unfinished-journal";
/// Bytes that the journal takes from the disk in advance: a full disk must not keep the store from writing down
/// that it evicts.
const CUSHION: u64 = 1 << 20;

pub(super) struct Journal {
    /// Where it belongs.
    index: PathBuf,
    /// `None` until the disk has room for it.
    file: Option<File>,
    number: u64,
    length: u64,
    /// Bytes that the file system has set aside.
    allocated: u64,
}

/// A journal read back.
pub(super) struct Replay {
    /// The changes, in order.
    pub(super) changes: Vec<(Change, Entry)>,
    /// Whether this boot wrote it. Otherwise nothing in it can be relied on.
    pub(super) is_of_this_boot: bool,
    /// Whether all records are right.
    pub(super) is_whole: bool,
}

pub(super) fn path(index: &Path, number: u64) -> PathBuf {
    index.join(format!("journal-{number:020}"))
}

impl Journal {
    /// Starts a journal, on disk for good, so that the next start sees which boot it belongs to.
    ///
    /// It gets its name when its header is complete: a process that dies before leaves a file that no start looks
    /// at. A journal without a header would say that the machine went down, and cost every blob since the last
    /// snapshot.
    pub(super) fn create(index: &Path, number: u64) -> Result<Self, Error> {
        let path = path(index, number);
        let file =
            make_file(index, number).map_err(Error::io(format!("cannot create {}", path.display())))?;
        let mut journal = Self::without_file(index, number);
        journal.allocated = allocate(&file, journal.length).unwrap_or(0);
        journal.file = Some(file);
        Ok(journal)
    }

    /// The same, but on a full disk the file is made by the first change that finds room for it. Until then every change
    /// is refused, and what the index says stays true.
    pub(super) fn start(index: &Path, number: u64) -> Result<Self, Error> {
        match Self::create(index, number) {
            Err(Error::Io { context, source }) if is_full(&source) => {
                tracing::warn!(
                    "{context}: {source}; what is there is served, and nothing changes until there is room"
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
            length: RECORD as u64,
            allocated: 0,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn records(&self) -> u64 {
        self.length / RECORD as u64 - 1
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
            // A full disk may have taken half a record; what follows must not start there.
            file.set_len(length)?;
            self.allocated = length;
            return written;
        }
        self.length += records.len() as u64;
        if self.length + CUSHION / 2 > self.allocated
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

/// Sets blocks aside for a journal of this length; gives where they end. Not every file system can; then the journal takes
/// what it needs when it needs it.
fn allocate(file: &File, length: u64) -> Option<u64> {
    rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, length, CUSHION).ok()?;
    Some(length + CUSHION)
}

/// Reads a journal. A record that is cut off at the end was never acknowledged to anybody and is left out.
pub(super) fn replay(path: &Path) -> Result<Replay, Error> {
    let failed = || Error::io(format!("cannot read {}", path.display()));
    let file = File::open(path).map_err(failed())?;
    let own_header = record::header(MAGIC).map_err(failed())?;
    let mut replay = Replay {
        changes: Vec::new(),
        is_of_this_boot: false,
        is_whole: true,
    };
    let mut is_first = true;
    let visit = |record: &[u8; RECORD]| {
        if std::mem::take(&mut is_first) {
            replay.is_of_this_boot = *record == own_header;
            return;
        }
        match record::decode(record) {
            Some(change) => replay.changes.push(change),
            None => replay.is_whole = false,
        }
    };
    record::for_each(&file, visit).map_err(failed())?;
    Ok(replay)
}
