//! One entry of a directory.

use bitzel_proto::Digest;

/// Location of the bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file of its own, named by the digest. With the checksum of the uncompressed content, if it was taken when the
    /// file was written: much faster to check than the digest.
    File(Option<Checksum>),
    /// Blocks of a segment, from `block` on.
    Segment { number: u32, block: u32 },
}

impl Place {
    pub(crate) fn is_file(self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// XXH3 checksum of 64 bits, little-endian. It detects errors of a disk, not an attack. An array of bytes and not a
/// number, so that an entry needs no padding for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum(pub(crate) [u8; 8]);

/// Encoding of the bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Not compressed.
    Raw,
    /// Compressed with Zstandard.
    Zstd,
}

/// Entry of a directory: a blob or a result, and the place of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) place: Place,
    pub(crate) encoding: Encoding,
    /// Number of blocks of 4 KiB that it takes.
    pub(crate) blocks: u32,
    /// Time of the last use in seconds since 1970, as exact as the journal records it.
    pub(crate) last_use: u32,
}
