//! Integrity checks: by the digest when a blob is written, and by a faster checksum when a large blob is read.

use std::hash::Hasher as _;

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::blob_store::verification::check;
use crate::error::Error;
use crate::media::bounded_directory::{Checksum, Entry, Place};

/// Check of a blob that is being written: compares its digest, and computes the checksum for later reads.
pub(super) struct WriteCheck {
    expected: Digest,
    hasher: Hasher,
    checksum: XxHash3_64,
}

impl WriteCheck {
    pub(super) fn new(expected: Digest) -> Self {
        Self {
            expected,
            hasher: expected.function().hasher(),
            checksum: XxHash3_64::new(),
        }
    }

    /// Checks all chunks of a blob.
    pub(super) fn whole(expected: Digest, chunks: &[Bytes]) -> Result<Checksum, Error> {
        let mut check = Self::new(expected);
        check.update(chunks)?;
        check.finish()
    }

    /// Adds chunks. Fails at the first byte too many.
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
        check(self.expected, self.hasher)?;
        Ok(Checksum(self.checksum.finish().to_le_bytes()))
    }
}

/// Check of a blob that is being read.
pub(super) enum ReadCheck {
    /// Comparison with the digest.
    Digest(Digest, Hasher),
    /// Comparison with the checksum that was computed when the blob was written and its digest was right.
    Checksum(Checksum, XxHash3_64),
}

impl ReadCheck {
    /// The fastest check that detects an error of the disk.
    pub(super) fn fastest(entry: &Entry) -> Self {
        match entry.place {
            Place::File(Some(checksum)) => Self::Checksum(checksum, XxHash3_64::new()),
            _ => Self::thorough(entry),
        }
    }

    /// The check that relies on the digest alone.
    pub(super) fn thorough(entry: &Entry) -> Self {
        Self::Digest(entry.digest, entry.digest.function().hasher())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Digest(_, hasher) => hasher.update(bytes),
            Self::Checksum(_, hasher) => hasher.write(bytes),
        }
    }

    /// True if all bytes were right.
    pub(super) fn finish(self) -> bool {
        match self {
            Self::Digest(expected, hasher) => hasher.finish() == expected,
            Self::Checksum(expected, hasher) => hasher.finish().to_le_bytes() == expected.0,
        }
    }
}
