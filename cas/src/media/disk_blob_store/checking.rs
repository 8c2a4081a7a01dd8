//! Telling right bytes from wrong ones: by the digest when a blob comes in, and by a quicker checksum when a large one is
//! read again.

use std::hash::Hasher as _;

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::error::Error;
use crate::media::bounded_directory::{Checksum, Entry, Place};

/// A blob coming in: checked against its digest, and summed up for those who read it.
pub(super) struct Arriving {
    expected: Digest,
    hasher: Hasher,
    checksum: XxHash3_64,
}

impl Arriving {
    pub(super) fn new(expected: Digest) -> Self {
        Self {
            expected,
            hasher: expected.function().hasher(),
            checksum: XxHash3_64::new(),
        }
    }

    /// All of a blob at once.
    pub(super) fn whole(expected: Digest, chunks: &[Bytes]) -> Result<Checksum, Error> {
        let mut arriving = Self::new(expected);
        arriving.update(chunks)?;
        arriving.finish()
    }

    /// Stops at the first byte too many.
    pub(super) fn update(&mut self, chunks: &[Bytes]) -> Result<(), Error> {
        for chunk in chunks {
            self.hasher.update(chunk);
            self.checksum.write(chunk);
            if self.hasher.size_bytes() > self.expected.size_bytes() {
                return Err(Error::DigestMismatch {
                    expected: self.expected,
                    actual: self.hasher.clone().finish(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Checksum, Error> {
        matches(self.expected, self.hasher.finish())?;
        Ok(Checksum(self.checksum.finish().to_le_bytes()))
    }
}

/// Whether bytes with the digest `actual` are the blob.
pub(super) fn matches(expected: Digest, actual: Digest) -> Result<(), Error> {
    if actual == expected {
        Ok(())
    } else {
        Err(Error::DigestMismatch { expected, actual })
    }
}

/// A blob being read.
pub(super) enum Check {
    /// Against its digest.
    Digest(Digest, Hasher),
    /// Against the checksum of the bytes whose digest was right when they were written.
    Checksum(Checksum, XxHash3_64),
}

impl Check {
    /// The quickest that finds a fault of the disk.
    pub(super) fn quickest(entry: &Entry) -> Self {
        match entry.place {
            Place::File(Some(checksum)) => Self::Checksum(checksum, XxHash3_64::new()),
            _ => Self::thorough(entry),
        }
    }

    /// The one that relies on nothing but the digest.
    pub(super) fn thorough(entry: &Entry) -> Self {
        Self::Digest(entry.digest, entry.digest.function().hasher())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Digest(_, hasher) => hasher.update(bytes),
            Self::Checksum(_, hasher) => hasher.write(bytes),
        }
    }

    /// Whether all bytes were right.
    pub(super) fn finish(self) -> bool {
        match self {
            Self::Digest(expected, hasher) => hasher.finish() == expected,
            Self::Checksum(expected, hasher) => hasher.finish().to_le_bytes() == expected.0,
        }
    }
}
