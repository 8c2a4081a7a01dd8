//! Looking after a store: what is in it, whether it is right, making it smaller.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_proto::Digest;

use super::{DiskBlobStore, reading};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{BLOCK, Encoding, Entry, Place, Usage};

/// Blobs that are verified in one trip to the blocking threads.
const VERIFIED_AT_ONCE: usize = 64;

/// Some of the blobs of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub blobs: u64,
    /// Bytes that their digests name.
    pub logical_bytes: u64,
    /// Bytes that they take on the disk, in blocks of 4 KiB.
    pub disk_bytes: u64,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// The whole.
    pub usage: Usage,
    /// Blobs in segments.
    pub in_segments: Tally,
    /// Blobs in files of their own.
    pub in_files: Tally,
    /// Those of either kind that are compressed.
    pub compressed: Tally,
    /// When the least recently used blob was used, to about ten minutes.
    pub oldest_use: Option<SystemTime>,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verification {
    /// Blobs looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were wrong and went to the quarantine.
    pub corrupt: u64,
    /// Blobs that there are to look at.
    pub total_blobs: u64,
    /// Their bytes.
    pub total_bytes: u64,
}

impl Tally {
    fn add(&mut self, entry: &Entry) {
        self.blobs += 1;
        self.logical_bytes += entry.digest.size_bytes();
        self.disk_bytes += u64::from(entry.blocks) * BLOCK;
    }
}

impl DiskBlobStore {
    /// What the store holds, in more detail than [`DiskBlobStore::usage`], which takes longer.
    pub async fn statistics(&self) -> Statistics {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || {
            let entries = directory.entries();
            let mut statistics = Statistics {
                usage: directory.usage(),
                in_segments: Tally::default(),
                in_files: Tally::default(),
                compressed: Tally::default(),
                oldest_use: entries
                    .iter()
                    .map(|entry| entry.used)
                    .min()
                    .map(|used| SystemTime::UNIX_EPOCH + Duration::from_secs(used.into())),
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

    /// Reads and hashes every blob; those that are wrong go to the quarantine and are gone. Does not count as use.
    /// `progress` hears of every step and of the digests that were wrong in it.
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
        for digests in digests.chunks(VERIFIED_AT_ONCE) {
            let (directory, checked) = (Arc::clone(&self.directory), digests.to_vec());
            let wrong = run_blocking(move || {
                let mut wrong = Vec::new();
                for digest in checked {
                    let before = directory.usage().corrupt_blobs;
                    match reading::verify(&directory, digest) {
                        Ok(()) => {}
                        // Gone in the meantime, if it was not this that took it away.
                        Err(Error::NotFound(_)) if directory.usage().corrupt_blobs == before => {}
                        Err(Error::NotFound(_)) => wrong.push(digest),
                        Err(error) => return Err(error),
                    }
                }
                Ok(wrong)
            })
            .await?;
            verification.blobs += digests.len() as u64;
            verification.bytes += digests.iter().map(Digest::size_bytes).sum::<u64>();
            verification.corrupt += wrong.len() as u64;
            progress(&verification, &wrong);
        }
        Ok(verification)
    }

    /// Evicts the least recently used blobs until at most `target_bytes` are in use, and all that was not used for
    /// `unused_for`. Leased blobs stay. Gives the number of blobs and their bytes on disk.
    pub async fn collect_garbage(
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
        run_blocking(move || directory.collect(target_bytes.unwrap_or(u64::MAX), cutoff)).await
    }
}
