//! Format of the index on disk: records of 64 bytes, each with a checksum of its own.

use std::fs::File;
use std::io::{self, Read};

use bitzel_proto::{Digest, DigestFunction};

use super::{Checksum, Encoding, Entry, Place};

/// Size of a record.
pub(super) const RECORD_BYTES: usize = 64;
/// Part of a record that its checksum covers.
const CHECKED_BYTES: usize = RECORD_BYTES - 4;
/// Records that are read with one system call.
const RECORDS_PER_READ: usize = 1 << 14;

/// Kind of change of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The entry was added. For a file of its own: it is about to appear.
    Add,
    /// The entry is about to be removed.
    Remove,
    /// The entry was used.
    Touch,
}

pub(super) fn encode(change: Change, entry: &Entry) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
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
    record[56..60].copy_from_slice(&entry.last_use.to_le_bytes());
    seal(record)
}

pub(super) fn decode(record: &[u8; RECORD_BYTES]) -> Option<(Change, Entry)> {
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
        last_use: number(56)?,
    };
    Some((change, entry))
}

/// First record of a file: the kind of the file, and the boot that writes it.
pub(super) fn header(magic: [u8; 8]) -> io::Result<[u8; RECORD_BYTES]> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim().as_bytes();
    let mut header = [0; RECORD_BYTES];
    header[..8].copy_from_slice(&magic);
    let length = boot.len().min(CHECKED_BYTES - 8);
    header[8..8 + length].copy_from_slice(&boot[..length]);
    Ok(seal(header))
}

/// Last record of a file: the kind of the file, and the number of records between header and footer.
pub(super) fn footer(magic: [u8; 8], records: u64) -> [u8; RECORD_BYTES] {
    let mut footer = [0; RECORD_BYTES];
    footer[..8].copy_from_slice(&magic);
    footer[8..16].copy_from_slice(&records.to_le_bytes());
    seal(footer)
}

/// True for a header of a file of that kind, of any boot.
pub(super) fn is_header(record: &[u8; RECORD_BYTES], magic: [u8; 8]) -> bool {
    record.starts_with(&magic) && seal(*record) == *record
}

/// Sets the checksum at the end of a record.
fn seal(mut record: [u8; RECORD_BYTES]) -> [u8; RECORD_BYTES] {
    let checksum = crc32fast::hash(&record[..CHECKED_BYTES]);
    record[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// Calls `visit` with every complete record from the current position of a file. A record that is cut off at the end is
/// left out.
pub(super) fn for_each(mut file: &File, mut visit: impl FnMut(&[u8; RECORD_BYTES])) -> io::Result<()> {
    let mut buffer = vec![0; RECORDS_PER_READ * RECORD_BYTES];
    let mut filled = 0;
    loop {
        let read = match file.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        filled += read;
        let (records, rest) = buffer[..filled].as_chunks::<RECORD_BYTES>();
        records.iter().for_each(&mut visit);
        let rest = filled - rest.len()..filled;
        if read == 0 {
            return Ok(());
        }
        filled = rest.len();
        buffer.copy_within(rest, 0);
    }
}
