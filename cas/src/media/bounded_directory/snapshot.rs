//! All entries of a directory in order of use, in one file: a header, then a record for each.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::entries::{Entries, Entry};
use super::record::{self, Change, RECORD};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"bitzels3";
/// The name of a snapshot that is being written.
pub(super) const UNFINISHED: &str = "unfinished-snapshot";
const BUFFER: usize = 1 << 20;

pub(super) fn path(index: &Path, number: u64) -> PathBuf {
    index.join(format!("snapshot-{number:020}"))
}

/// Writes a snapshot; on return it is on disk for good.
pub(super) fn write(
    index: &Path,
    number: u64,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<(), Error> {
    let path = path(index, number);
    let unfinished = index.join(UNFINISHED);
    let write = || {
        let mut file = BufWriter::with_capacity(BUFFER, File::create(&unfinished)?);
        file.write_all(&record::header(MAGIC)?)?;
        for entry in entries {
            file.write_all(&record::encode(Change::Add, &entry))?;
        }
        file.into_inner()?.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(Error::io(format!("cannot write {}", path.display())))?;
    sync_directory(index).map_err(Error::io(format!("cannot sync {}", index.display())))
}

/// What a snapshot lists.
pub(super) struct Listing {
    pub(super) entries: Entries,
    /// Records that were damaged, and are missing.
    pub(super) damaged: u64,
}

/// Reads a snapshot; `None` when it is none.
pub(super) fn read(path: &Path) -> Result<Option<Listing>, Error> {
    let failed = || Error::io(format!("cannot read {}", path.display()));
    let file = File::open(path).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut entries = Entries::new();
    entries.reserve(usize::try_from(length).unwrap_or(0) / RECORD);
    let mut damaged = 0;
    let mut has_header = None;
    let visit = |record: &[u8; RECORD]| {
        if has_header.is_none() {
            has_header = Some(record::is_header(record, MAGIC));
            return;
        }
        match record::decode(record) {
            Some((Change::Add, entry)) => {
                entries.insert(entry);
            }
            _ => damaged += 1,
        }
    };
    record::for_each(&file, visit).map_err(failed())?;
    damaged += u64::from(length % RECORD as u64 != 0);
    Ok((has_header == Some(true)).then_some(Listing { entries, damaged }))
}

/// Makes renames and creations in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
