//! Trailers: the record of an entry in the padding of its last block, from which the entry is found again if the index
//! is lost.
//!
//! A trailer costs no space and no system call. An entry that leaves less than a record of its last block free has none:
//! without the index it is lost.

use std::io::IoSlice;

use crate::media::bounded_directory::record::{self, Change, RECORD_BYTES};
use crate::media::bounded_directory::{BLOCK_BYTES, Encoding, Entry, Place, blocks_of};

/// Bytes of a block, as the size of an array.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Padding of an entry up to the end of its last block.
pub(in super::super) struct Padding {
    zeros: usize,
    trailer: Option<[u8; RECORD_BYTES]>,
}

impl Padding {
    /// Padding of an entry whose content has `length` bytes.
    pub(in super::super) fn new(entry: &Entry, length: usize) -> Self {
        let gap = length.max(1).next_multiple_of(BLOCK) - length;
        match gap.checked_sub(RECORD_BYTES) {
            Some(zeros) => Self {
                zeros,
                trailer: Some(record::encode(Change::Add, entry)),
            },
            None => Self {
                zeros: gap,
                trailer: None,
            },
        }
    }

    /// The padding as parts of a vectored write.
    pub(in super::super) fn parts(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let trailer = self.trailer.iter().map(|trailer| IoSlice::new(trailer));
        std::iter::once(IoSlice::new(&ZEROS[..self.zeros])).chain(trailer)
    }
}

/// The entry that ends with block `last` of segment `number`, by the content of that block. Its bytes are unverified: a
/// blob may contain what looks like a trailer.
pub(super) fn entry_of(number: u32, last: u32, block: &[u8]) -> Option<Entry> {
    let trailer = block.last_chunk::<RECORD_BYTES>()?;
    let (_, entry) = record::decode(trailer).filter(|(change, _)| *change == Change::Add)?;
    let Place::Segment { number: named, block } = entry.place else {
        return None;
    };
    let ends_here = block.checked_add(entry.blocks)? == last.checked_add(1)?;
    // Compression only makes an entry smaller.
    let fits = match entry.encoding {
        Encoding::Raw => entry.blocks == blocks_of(entry.digest.size_bytes()),
        Encoding::Zstd => entry.blocks <= blocks_of(entry.digest.size_bytes()),
    };
    (named == number && ends_here && fits && entry.blocks > 0).then_some(entry)
}

const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);
