//! Entry in memory, packed into 64 bytes, the size of a cache line of the processor: a look-up waits for one line, and
//! a million entries take 64 MB.

use bitzel_proto::{Digest, DigestFunction};

use crate::media::bounded_directory::{Checksum, Encoding, Entry, Place};

/// Entry in a list. The fields that a look-up compares are side by side. Not aligned to cache lines: a vector of aligned
/// values grows by a copy, which needs its memory twice for a short time; without alignment the kernel moves the pages.
#[repr(C)]
pub(super) struct Node {
    hash: [u8; 32],
    /// Size in bytes in the lower 56 bits, flags above.
    size_and_flags: u64,
    /// Checksum of a file, or number and block of a segment.
    location: [u8; 8],
    blocks: u32,
    pub(super) last_use: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
}

const _: () = assert!(size_of::<Node>() == 64);

/// Bits of the size. Blobs of 64 PiB and more do not occur.
const SIZE_MASK: u64 = (1 << 56) - 1;

const LEASED: u64 = 1 << 56;
const BLAKE3: u64 = 1 << 57;
const ZSTD: u64 = 1 << 58;
const IN_SEGMENT: u64 = 1 << 59;
const HAS_CHECKSUM: u64 = 1 << 60;

fn flag(flag: u64, is_set: bool) -> u64 {
    if is_set { flag } else { 0 }
}

impl Node {
    /// Makes a node that is in no list.
    pub(super) fn new(entry: &Entry, leased: bool, none: u32) -> Self {
        let mut node = Self {
            hash: *entry.digest.hash(),
            size_and_flags: flag(LEASED, leased),
            location: [0; 8],
            blocks: 0,
            last_use: 0,
            previous: none,
            next: none,
        };
        node.set_entry(entry);
        node
    }

    /// Replaces the entry and keeps the position in the list.
    pub(super) fn set_entry(&mut self, entry: &Entry) {
        let (place, location) = match entry.place {
            Place::File(None) => (0, [0; 8]),
            Place::File(Some(Checksum(checksum))) => (HAS_CHECKSUM, checksum),
            Place::Segment { number, block } => {
                let location = u64::from(number) << 32 | u64::from(block);
                (IN_SEGMENT, location.to_le_bytes())
            }
        };
        self.hash = *entry.digest.hash();
        self.size_and_flags = entry.digest.size_bytes().min(SIZE_MASK)
            | (self.size_and_flags & LEASED)
            | flag(BLAKE3, entry.digest.function() == DigestFunction::Blake3)
            | flag(ZSTD, entry.encoding == Encoding::Zstd)
            | place;
        self.location = location;
        self.blocks = entry.blocks;
        self.last_use = entry.last_use;
    }

    pub(super) fn entry(&self) -> Entry {
        let place = if self.has(IN_SEGMENT) {
            let location = u64::from_le_bytes(self.location);
            Place::Segment {
                number: (location >> 32) as u32,
                block: (location & 0xffff_ffff) as u32,
            }
        } else {
            Place::File(self.has(HAS_CHECKSUM).then_some(Checksum(self.location)))
        };
        Entry {
            digest: self.digest(),
            place,
            encoding: if self.has(ZSTD) {
                Encoding::Zstd
            } else {
                Encoding::Raw
            },
            blocks: self.blocks,
            last_use: self.last_use,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::new(self.function(), self.hash, self.size_and_flags & SIZE_MASK)
    }

    pub(super) fn function(&self) -> DigestFunction {
        if self.has(BLAKE3) {
            DigestFunction::Blake3
        } else {
            DigestFunction::Sha256
        }
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.into()
    }

    /// True if the node is in the list of leased entries.
    pub(super) fn is_leased(&self) -> bool {
        self.has(LEASED)
    }

    pub(super) fn set_leased(&mut self, leased: bool) {
        self.size_and_flags = (self.size_and_flags & !LEASED) | flag(LEASED, leased);
    }

    fn has(&self, flag: u64) -> bool {
        self.size_and_flags & flag != 0
    }
}
