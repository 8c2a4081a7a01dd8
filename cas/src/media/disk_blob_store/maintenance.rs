//! Maintenance of a store: statistics, verification and eviction.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_proto::Digest;

use super::{DiskBlobStore, reader};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{BLOCK_BYTES, Encoding, Entry, Place, Usage};

/// Blobs that are verified by one call on a blocking thread.
const VERIFICATION_BATCH_BLOBS: usize = 64;

/// Number and size of some of the blobs of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobTotals {
    /// Number of blobs.
    pub blobs: u64,
    /// Sum of the sizes in their digests.
    pub logical_bytes: u64,
    /// Bytes that they take on the disk, in blocks of 4 KiB.
    pub disk_bytes: u64,
}

/// Statistics of the blobs of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// All blobs.
    pub usage: Usage,
    /// Blobs in segments.
    pub in_segments: BlobTotals,
    /// Blobs in files of their own.
    pub in_files: BlobTotals,
    /// Compressed blobs, in segments and in files.
    pub compressed: BlobTotals,
    /// Time of the last use of the least recently used blob, exact to about ten minutes.
    pub oldest_use: Option<SystemTime>,
}

/// Progress of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verification {
    /// Verified blobs.
    pub blobs: u64,
    /// Bytes of the verified blobs.
    pub bytes: u64,
    /// Corrupt blobs, which were moved to the quarantine.
    pub corrupt: u64,
    /// All blobs that are to be verified.
    pub total_blobs: u64,
    /// Bytes of all blobs that are to be verified.
    pub total_bytes: u64,
}

impl BlobTotals {
    fn add(&mut self, entry: &Entry) {
        self.blobs += 1;
        self.logical_bytes += entry.digest.size_bytes();
        self.disk_bytes += u64::from(entry.blocks) * BLOCK_BYTES;
    }
}

impl DiskBlobStore {
    /// Statistics of the store. They are more detailed than [`DiskBlobStore::usage`] and take longer.
    pub async fn statistics(&self) -> Statistics {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || {
            let entries = directory.entries();
            let mut statistics = Statistics {
                usage: directory.usage(),
                in_segments: BlobTotals::default(),
                in_files: BlobTotals::default(),
                compressed: BlobTotals::default(),
                oldest_use: entries
                    .iter()
                    .map(|entry| entry.last_use)
                    .min()
                    .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())),
            };
            for entry in &entries {
                match entry.place {
                    Place::Segment { .. } => statistics.in_segments.add(entry),
                    Place::File(_) => statistics.in_files.add(entry),
                }
                if entry.encoding == Encoding::Zstd {
                    statistics.compressed.add(entry);
                }
            }
            statistics
        })
        .await
    }

    /// Reads and hashes every blob. Corrupt ones are moved to the quarantine, and are absent from then on. Does not count
    /// as use. `progress` is called after every step with the digests that were corrupt in it.
    pub async fn verify(
        &self,
        mut progress: impl FnMut(&Verification, &[Digest]) + Send,
    ) -> Result<Verification, Error> {
        let entries = run_blocking({
            let directory = Arc::clone(&self.directory);
            move || directory.entries()
        })
        .await;
        let digests: Vec<Digest> = entries.into_iter().map(|entry| entry.digest).collect();
        let mut verification = Verification {
            total_blobs: digests.len() as u64,
            total_bytes: digests.iter().map(Digest::size_bytes).sum(),
            ..Verification::default()
        };
        for digests in digests.chunks(VERIFICATION_BATCH_BLOBS) {
            let (directory, checked) = (Arc::clone(&self.directory), digests.to_vec());
            let corrupt = run_blocking(move || {
                let mut corrupt = Vec::new();
                for digest in checked {
                    let before = directory.usage().corrupt_blobs;
                    match reader::verify(&directory, digest) {
                        Ok(()) => {}
                        // Evicted meanwhile: it did not go to the quarantine.
                        Err(Error::NotFound(_)) if directory.usage().corrupt_blobs == before => {}
                        Err(Error::NotFound(_)) => corrupt.push(digest),
                        Err(error) => return Err(error),
                    }
                }
                Ok(corrupt)
            })
            .await?;
            verification.blobs += digests.len() as u64;
            verification.bytes += digests.iter().map(Digest::size_bytes).sum::<u64>();
            verification.corrupt += corrupt.len() as u64;
            progress(&verification, &corrupt);
        }
        Ok(verification)
    }

    /// Evicts the least recently used blobs until at most `target_bytes` are in use, and all blobs that were not used for
    /// `unused_for`. Leased blobs stay. Returns the number of evicted blobs and their bytes on disk.
    pub async fn evict(
        &self,
        target_bytes: Option<u64>,
        unused_for: Option<Duration>,
    ) -> Result<(u64, u64), Error> {
        let directory = Arc::clone(&self.directory);
        let cutoff = unused_for.map_or(0, |age| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let cutoff = since.unwrap_or_default().saturating_sub(age).as_secs();
            u32::try_from(cutoff).unwrap_or(u32::MAX)
        });
        run_blocking(move || directory.evict(target_bytes.unwrap_or(u64::MAX), cutoff)).await
    }
}
