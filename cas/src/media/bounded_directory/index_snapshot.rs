//! Index snapshot: a file with all entries of a directory in order of use. A header, a record for each entry, and a
//! footer with their number.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Entry;
use super::entries::Entries;
use super::record::{self, Change, RECORD_BYTES};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"bitzels4";
/// Start of the footer, which holds the number of entries: a snapshot that was cut off has none.
const FOOTER_MAGIC: [u8; 8] = *b"bitzele4";
/// Magic of snapshots of earlier versions, which have no footer.
const MAGIC_WITHOUT_FOOTER: [u8; 8] = *b"bitzels3";
/// Name of a snapshot that is being written.
pub(super) const UNFINISHED: &str = "unfinished-snapshot";
const WRITE_BUFFER_BYTES: usize = 1 << 20;

pub(super) fn path(index: &Path, number: u64) -> PathBuf {
    index.join(format!("snapshot-{number:020}"))
}

/// Writes a snapshot. On return it survives a power loss.
pub(super) fn write(
    index: &Path,
    number: u64,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<(), Error> {
    let path = path(index, number);
    let unfinished = index.join(UNFINISHED);
    let write = || {
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, File::create(&unfinished)?);
        file.write_all(&record::header(MAGIC)?)?;
        let mut written = 0;
        for entry in entries {
            file.write_all(&record::encode(Change::Add, &entry))?;
            written += 1;
        }
        file.write_all(&record::footer(FOOTER_MAGIC, written))?;
        file.into_inner()?.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(Error::io(format_args!("cannot write {}", path.display())))?;
    sync_directory(index).map_err(Error::io(format_args!("cannot sync {}", index.display())))
}

/// Content of a snapshot.
pub(super) struct Listing {
    pub(super) entries: Entries,
    /// Number of records that are damaged and therefore missing.
    pub(super) damaged: u64,
}

/// Reads a snapshot. `None` if the file is not a snapshot.
pub(super) fn read(path: &Path) -> Result<Option<Listing>, Error> {
    let failed = |error| Error::io(format_args!("cannot read {}", path.display()))(error);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut entries = Entries::new();
    entries.reserve(usize::try_from(length).unwrap_or(0) / RECORD_BYTES);
    let mut damaged = 0;
    let mut has_header = None;
    let mut needs_footer = true;
    let mut records = 0;
    let visit = |record: &[u8; RECORD_BYTES]| {
        if has_header.is_none() {
            needs_footer = !record::is_header(record, MAGIC_WITHOUT_FOOTER);
            has_header = Some(!needs_footer || record::is_header(record, MAGIC));
            return;
        }
        match record::decode(record) {
            Some((Change::Add, entry)) => {
                entries.insert(entry);
                records += 1;
            }
            _ if needs_footer && *record == record::footer(FOOTER_MAGIC, records + damaged) => {
                needs_footer = false;
            }
            _ => damaged += 1,
        }
    };
    record::for_each(&file, visit).map_err(failed)?;
    damaged += u64::from(length % RECORD_BYTES as u64 != 0 || needs_footer);
    Ok((has_header == Some(true)).then_some(Listing { entries, damaged }))
}

/// Makes the creation and renaming of files in a directory survive a power loss.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
