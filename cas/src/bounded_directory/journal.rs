//! What happened since the last snapshot.
//!
//! A file of records of 48 bytes, the first of which names the boot that wrote it. Records are appended before the
//! files that they name change, so a process that dies in between leaves a record to check, never a file that
//! nobody knows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;

const RECORD: usize = 48;
const MAGIC: &[u8; 8] = b"bitzelj1";
const CHECKED: usize = RECORD - 4;
/// The name of a journal whose header is being written.
pub(super) const UNFINISHED: &str = "unfinished-journal";

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is about to appear.
    Add,
    /// It is about to go.
    Remove,
    /// It was used.
    Touch,
}

pub(super) struct Journal {
    file: File,
    number: u64,
    length: u64,
}

/// A journal read back.
pub(super) struct Replay {
    /// The changes, in order.
    pub(super) changes: Vec<(Change, Digest)>,
    /// Whether this boot wrote it and every whole record is right. Otherwise the files are to be looked at.
    pub(super) is_reliable: bool,
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
        let failed = || Error::io(format!("cannot create {}", path.display()));
        let unfinished = index.join(UNFINISHED);
        let header = header().map_err(failed())?;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&unfinished)
            .map_err(failed())?;
        file.set_len(0).map_err(failed())?;
        file.write_all(&header).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        fs::rename(&unfinished, &path).map_err(failed())?;
        super::snapshot::sync_directory(index)?;
        Ok(Self {
            file,
            number,
            length: RECORD as u64,
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn records(&self) -> u64 {
        self.length / RECORD as u64 - 1
    }

    pub(super) fn append(&mut self, changes: &[(Change, Digest)]) -> io::Result<()> {
        let mut records = Vec::with_capacity(changes.len() * RECORD);
        for (change, digest) in changes {
            records.extend_from_slice(&encode(*change, *digest));
        }
        let written = self.file.write_all(&records);
        if written.is_err() {
            // A full disk may have taken half a record; what follows must not start there.
            self.file.set_len(self.length)?;
        } else {
            self.length += records.len() as u64;
        }
        written
    }
}

/// Reads a journal. A record that is cut off at the end was never acknowledged to anybody and is left out.
pub(super) fn replay(path: &Path) -> Result<Replay, Error> {
    let failed = || Error::io(format!("cannot read {}", path.display()));
    let bytes = fs::read(path).map_err(failed())?;
    let (records, _torn) = bytes.as_chunks::<RECORD>();
    let own_header = header().map_err(failed())?;
    let mut is_reliable = records.first() == Some(&own_header);
    let mut changes = Vec::with_capacity(records.len());
    for record in records.iter().skip(1) {
        match decode(record) {
            Some(change) => changes.push(change),
            None => is_reliable = false,
        }
    }
    Ok(Replay { changes, is_reliable })
}

fn header() -> io::Result<[u8; RECORD]> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim().as_bytes();
    let mut header = [0; RECORD];
    header[..8].copy_from_slice(MAGIC);
    let length = boot.len().min(CHECKED - 8);
    header[8..8 + length].copy_from_slice(&boot[..length]);
    Ok(seal(header))
}

fn encode(change: Change, digest: Digest) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0] = match change {
        Change::Add => 1,
        Change::Remove => 2,
        Change::Touch => 3,
    };
    record[1..=super::snapshot::ENTRY].copy_from_slice(&super::snapshot::encode(digest));
    seal(record)
}

fn decode(record: &[u8; RECORD]) -> Option<(Change, Digest)> {
    if seal(*record) != *record {
        return None;
    }
    let change = match record[0] {
        1 => Change::Add,
        2 => Change::Remove,
        3 => Change::Touch,
        _ => return None,
    };
    let entry = record[1..].first_chunk()?;
    Some((change, super::snapshot::decode(entry)?))
}

/// Puts the checksum at the end.
fn seal(mut record: [u8; RECORD]) -> [u8; RECORD] {
    let checksum = crc32fast::hash(&record[..CHECKED]);
    record[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// For entries: one byte.
pub(super) fn function_code(function: DigestFunction) -> u8 {
    match function {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    }
}
