//! The form of the index on disk: records of 64 bytes, each with a checksum of its own.

use std::fs::File;
use std::io::{self, Read};

use bitzel_proto::{Digest, DigestFunction};

use super::entries::{Checksum, Encoding, Entry, Place};

/// Bytes of a record.
pub(super) const RECORD: usize = 64;
const CHECKED: usize = RECORD - 4;
/// Records that are read at once.
const READ_AHEAD: usize = 1 << 14;

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there. For a file of its own: it is about to appear.
    Add,
    /// It is about to go.
    Remove,
    /// It was used.
    Touch,
}

pub(super) fn encode(change: Change, entry: &Entry) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0] = match change {
        Change::Add => 1,
        Change::Remove => 2,
        Change::Touch => 3,
    };
    record[1] = match entry.digest.function() {
        DigestFunction::Sha256 => 1,
        DigestFunction::Blake3 => 2,
    };
    record[2] = match entry.encoding {
        Encoding::Raw => 1,
        Encoding::Zstd => 2,
    };
    let (place, location) = match entry.place {
        Place::File(None) => (1, [0; 8]),
        Place::File(Some(Checksum(checksum))) => (2, checksum),
        Place::Segment { number, block } => {
            let mut location = [0; 8];
            location[..4].copy_from_slice(&number.to_le_bytes());
            location[4..].copy_from_slice(&block.to_le_bytes());
            (3, location)
        }
    };
    record[3] = place;
    record[4..8].copy_from_slice(&entry.blocks.to_le_bytes());
    record[8..16].copy_from_slice(&entry.digest.size_bytes().to_le_bytes());
    record[16..48].copy_from_slice(entry.digest.hash());
    record[48..56].copy_from_slice(&location);
    record[56..60].copy_from_slice(&entry.used.to_le_bytes());
    seal(record)
}

pub(super) fn decode(record: &[u8; RECORD]) -> Option<(Change, Entry)> {
    if seal(*record) != *record {
        return None;
    }
    let number = |at: usize| record[at..].first_chunk().copied().map(u32::from_le_bytes);
    let change = match record[0] {
        1 => Change::Add,
        2 => Change::Remove,
        3 => Change::Touch,
        _ => return None,
    };
    let function = match record[1] {
        1 => DigestFunction::Sha256,
        2 => DigestFunction::Blake3,
        _ => return None,
    };
    let encoding = match record[2] {
        1 => Encoding::Raw,
        2 => Encoding::Zstd,
        _ => return None,
    };
    let size = u64::from_le_bytes(*record[8..].first_chunk()?);
    let place = match record[3] {
        1 => Place::File(None),
        2 => Place::File(Some(Checksum(*record[48..].first_chunk()?))),
        3 => Place::Segment {
            number: number(48)?,
            block: number(52)?,
        },
        _ => return None,
    };
    let entry = Entry {
        digest: Digest::new(function, *record[16..].first_chunk()?, size),
        place,
        encoding,
        blocks: number(4)?,
        used: number(56)?,
    };
    Some((change, entry))
}

/// Starts a file of records: its kind, and the boot that writes it.
pub(super) fn header(magic: [u8; 8]) -> io::Result<[u8; RECORD]> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim().as_bytes();
    let mut header = [0; RECORD];
    header[..8].copy_from_slice(&magic);
    let length = boot.len().min(CHECKED - 8);
    header[8..8 + length].copy_from_slice(&boot[..length]);
    Ok(seal(header))
}

/// Whether this is a header of that kind, of whatever boot.
pub(super) fn is_header(record: &[u8; RECORD], magic: [u8; 8]) -> bool {
    record.starts_with(&magic) && seal(*record) == *record
}

/// Puts the checksum at the end.
fn seal(mut record: [u8; RECORD]) -> [u8; RECORD] {
    let checksum = crc32fast::hash(&record[..CHECKED]);
    record[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// Calls `visit` with every whole record of a file, from where it stands. What is cut off at the end is left out.
pub(super) fn for_each(mut file: &File, mut visit: impl FnMut(&[u8; RECORD])) -> io::Result<()> {
    let mut buffer = vec![0; READ_AHEAD * RECORD];
    let mut filled = 0;
    loop {
        let read = match file.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        filled += read;
        let (records, rest) = buffer[..filled].as_chunks::<RECORD>();
        records.iter().for_each(&mut visit);
        let rest = filled - rest.len()..filled;
        if read == 0 {
            return Ok(());
        }
        filled = rest.len();
        buffer.copy_within(rest, 0);
    }
}
