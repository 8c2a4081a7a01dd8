//! A store on disk: one file for each blob, bounded in size, safe against the death of the process at any point.
//!
//! What survives what:
//!
//! - **Death of the process, `kill -9` included:** every blob whose write was acknowledged is served afterwards,
//!   and nothing else is: a file appears under its name only when it is complete and its digest was verified.
//! - **Power loss, crash of the kernel:** blobs up to the last checkpoint (a clean shutdown, or at most five
//!   minutes of writing ago) are kept, later ones are gone as a whole. No write waits for the disk.
//! - **Rot of the disk:** what is read is checked on the way, up to 1 MiB by its digest, above that by a checksum that was
//!   taken when the digest was right (`docs/decisions/0003-disk-store.md`); wrong bytes end the read with
//!   [`Error::NotFound`], and go to the quarantine. Only of blobs of more than 1 MiB a part can be read without the rest; it is checked by the
//!   size of the file, or by the checksum of each frame where the blob is compressed.
//!
//! The limit holds at every moment: room is reserved before a blob is written, by evicting the least recently used,
//! and given up when it is not used. How the bytes are kept is described in `bounded_directory.rs`, why in
//! `docs/decisions/0003-disk-store.md` and `0014-segments.md`.

mod checking;
mod encoding;
mod maintenance;
mod reading;
mod writing;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;

use self::writing::Target;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, one_chunk};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{BoundedDirectory, CHECKPOINT_RECORDS, DirectoryLease, Options};

pub use self::maintenance::{Statistics, Tally, Verification};
pub use crate::media::bounded_directory::Usage;

/// Blobs up to this size are read and written whole, in one trip to the blocking threads, and kept in segments.
const SMALL: u64 = 1 << 20;
/// Look-ups that are too quick for a trip to the blocking threads: some microseconds for each dozen.
const AT_ONCE: usize = 512;
/// Blobs of a batch that one trip takes along at most.
const TRIP_BLOBS: usize = 256;
/// Bytes that one trip takes along, about.
const TRIP_BYTES: u64 = 4 << 20;
/// Trips of one batch at the same time.
const TRIPS: usize = 4;

/// Limits of a [`DiskBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskBlobStoreOptions {
    /// Bytes that the blobs may take on disk, each rounded up to 4 KiB.
    pub limit_bytes: u64,
    /// Bytes that must stay free on the file system, whoever uses it. The store evicts and refuses for that.
    pub free_space_floor_bytes: u64,
    /// Whether blobs are compressed where that saves something. Costs time for each write and read. Blobs that are
    /// there stay as they are when this changes.
    pub compress: bool,
}

/// The store.
#[derive(Clone)]
pub struct DiskBlobStore {
    directory: Arc<BoundedDirectory>,
    compress: bool,
}

impl DiskBlobStore {
    /// Opens the store at `root`, which is created if it is not there. One process at a time may have it open.
    pub async fn open(root: &Path, options: DiskBlobStoreOptions) -> Result<Self, Error> {
        let directory = Options {
            limit: options.limit_bytes,
            free_space_floor: options.free_space_floor_bytes,
            checkpoint_records: CHECKPOINT_RECORDS,
            is_intact: reading::is_intact,
        };
        Self::open_with(root, directory, options.compress).await
    }

    async fn open_with(root: &Path, options: Options, compress: bool) -> Result<Self, Error> {
        let root = root.to_owned();
        let directory = run_blocking(move || BoundedDirectory::open(&root, options)).await?;
        Ok(Self {
            directory: Arc::new(directory),
            compress,
        })
    }

    fn target(&self) -> Target {
        Target {
            directory: Arc::clone(&self.directory),
            compress: self.compress,
        }
    }

    /// What the store holds.
    pub fn usage(&self) -> Usage {
        self.directory.usage()
    }

    /// Makes everything that is in the store survive a power loss. Also happens by itself from time to time.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || directory.checkpoint()).await
    }

    /// Checkpoint at a clean shutdown: the next start, even after a reboot, needs no look at the files. Writes are
    /// refused from here on.
    pub async fn close(&self) -> Result<(), Error> {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || directory.close()).await
    }
}

#[async_trait]
impl BlobStore for DiskBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let digests: Vec<Digest> = digests
            .iter()
            .filter(|digest| !digest.is_empty_blob())
            .copied()
            .collect();
        if digests.len() <= AT_ONCE {
            return Ok(self.directory.missing(&digests));
        }
        let directory = Arc::clone(&self.directory);
        Ok(run_blocking(move || directory.missing(&digests)).await)
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        if range.offset > digest.size_bytes() {
            let offset = range.offset;
            return Err(Error::OffsetOutOfRange { digest, offset });
        }
        if digest.is_empty_blob() {
            return Ok(one_chunk(Bytes::new()));
        }
        if let Some(blob) = reading::read_cached(&self.directory, digest) {
            return Ok(one_chunk(reading::cut(&blob, range)));
        }
        let directory = Arc::clone(&self.directory);
        run_blocking(move || reading::read(directory, digest, range)).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        writing::write(&self.target(), digest, blob).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let (directory, digests) = (Arc::clone(&self.directory), digests.to_vec());
        if digests.len() <= AT_ONCE {
            return Ok(Lease::new(DirectoryLease::new(directory, digests)));
        }
        let lease = run_blocking(move || DirectoryLease::new(directory, digests)).await;
        Ok(Lease::new(lease))
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(self.directory.resolve(function, hash))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let trips = trips(digests.to_vec(), Digest::size_bytes);
        let read = futures::stream::iter(trips).map(|digests| {
            let directory = Arc::clone(&self.directory);
            run_blocking(move || reading::read_all(&directory, &digests))
        });
        read.buffered(TRIPS).concat().await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let trips = trips(blobs, |(digest, _)| digest.size_bytes());
        let written = futures::stream::iter(trips).map(|blobs| {
            let target = self.target();
            run_blocking(move || writing::write_all(&target, blobs))
        });
        written.buffered(TRIPS).concat().await
    }
}

/// Cuts a batch into what one trip to the blocking threads takes along.
fn trips<T>(blobs: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut trips = Vec::new();
    let mut trip = Vec::new();
    let mut bytes = 0_u64;
    for blob in blobs {
        bytes = bytes.saturating_add(size(&blob));
        trip.push(blob);
        if trip.len() == TRIP_BLOBS || bytes >= TRIP_BYTES {
            trips.push(std::mem::take(&mut trip));
            bytes = 0;
        }
    }
    if !trip.is_empty() {
        trips.push(trip);
    }
    trips
}

#[cfg(test)]
mod tests;
