//! Store on disk with a size limit, which survives the death of its process at any point. Small blobs lie side by side in
//! segments, large ones in files of their own.
//!
//! Failures and what survives them:
//!
//! - **Death of the process, `kill -9` included:** every blob whose write was acknowledged is served afterwards, and no
//!   other blob: a blob gets into the index only when it is complete and its digest was verified.
//! - **Power loss, crash of the kernel:** blobs up to the last checkpoint (a clean shutdown, or at most five minutes of
//!   writing ago) are kept, later ones are lost as a whole. No write waits for the disk.
//! - **Corruption on the disk:** every read is checked, up to 1 MiB by the digest, above that by a checksum that was
//!   computed when the digest was right (`docs/decisions/0003-disk-store.md`). Wrong bytes end the read with
//!   [`Error::NotFound`] and are moved to the quarantine. Only of blobs of more than 1 MiB a part can be read without
//!   the rest; it is checked by the size of the file, or by the checksum of each frame if the blob is compressed.
//!
//! The limit holds at any time: space is reserved before a blob is written, by evicting the least recently used blobs,
//! and returned if it is not used. The format is described in `bounded_directory.rs`, its reasons in
//! `docs/decisions/0003-disk-store.md` and `0014-segments.md`.

mod encoding;
mod integrity;
mod large_blob_reader;
mod large_blob_writer;
mod maintenance;
mod reader;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;

use self::writer::Target;
use crate::batching::{BatchLimits, batches};
use crate::blob_store::chunk_limit::chunk_limit;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, one_chunk};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{
    BoundedDirectory, CHECKPOINT_RECORDS, ContentChecks, DirectoryLease, Options,
};

pub use self::maintenance::{BlobTotals, Statistics, Verification};
pub use crate::media::bounded_directory::{Losses, Usage};

/// Largest size of a blob that is read and written whole, by one call on a blocking thread, and kept in a segment.
const SMALL_BLOB_BYTES: u64 = 1 << 20;
/// Largest number of look-ups that are made without a blocking thread: a dozen takes some microseconds.
const MAX_INLINE_LOOKUPS: usize = 512;
/// Blobs of a batch that one call on a blocking thread reads or writes.
const BLOCKING_CALL_LIMITS: BatchLimits = BatchLimits {
    items: 256,
    bytes: 4 << 20,
};
/// Calls on blocking threads at the same time for one batch.
const MAX_CONCURRENT_BLOCKING_CALLS: usize = 4;

/// Checks of blobs that no index names.
const CHECKS: ContentChecks = ContentChecks {
    file: reader::is_intact,
    small: Some(reader::is_intact_in_segment),
};

/// Limits and compression of a [`DiskBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskBlobStoreOptions {
    /// Bytes that the blobs may take on disk, each rounded up to 4 KiB.
    pub limit_bytes: u64,
    /// Bytes that must stay free on the file system, whatever uses it. The store evicts, and refuses writes, to keep
    /// them free.
    pub free_space_floor_bytes: u64,
    /// Enables the compression of blobs where that saves space. Costs time for each write and read. Existing blobs stay
    /// as they are when this changes.
    pub compress: bool,
}

/// Store on disk. Clones share it.
#[derive(Clone)]
pub struct DiskBlobStore {
    directory: Arc<BoundedDirectory>,
    compress: bool,
}

impl DiskBlobStore {
    /// Opens the store at `root`, which is created if necessary. One process at a time may have it open.
    pub async fn open(root: &Path, options: DiskBlobStoreOptions) -> Result<Self, Error> {
        let directory = Options {
            limit: options.limit_bytes,
            free_space_floor: options.free_space_floor_bytes,
            checkpoint_records: CHECKPOINT_RECORDS,
            checks: CHECKS,
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

    /// Damage that was found when the store was opened, and its consequences.
    pub fn losses(&self) -> Option<&Losses> {
        self.directory.losses()
    }

    /// Number and size of the blobs in the store.
    pub fn usage(&self) -> Usage {
        self.directory.usage()
    }

    /// Makes all blobs in the store survive a power loss. The store also does this by itself every few minutes.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let directory = Arc::clone(&self.directory);
        run_blocking(move || directory.checkpoint()).await
    }

    /// Checkpoint at a clean shutdown: the next start, even after a reboot, does not scan the files. Writes are refused
    /// from then on.
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
        if digests.len() <= MAX_INLINE_LOOKUPS {
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
        if let Some(blob) = reader::read_cached(&self.directory, digest) {
            return Ok(one_chunk(reader::cut(&blob, range)));
        }
        let (directory, limit) = (Arc::clone(&self.directory), chunk_limit());
        run_blocking(move || reader::read(directory, digest, range, limit)).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        writer::write(&self.target(), digest, blob).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let (directory, digests) = (Arc::clone(&self.directory), digests.to_vec());
        if digests.len() <= MAX_INLINE_LOOKUPS {
            return Ok(Lease::new(DirectoryLease::new(directory, digests)));
        }
        let lease = run_blocking(move || DirectoryLease::new(directory, digests)).await;
        Ok(Lease::new(lease))
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(self.directory.resolve(function, hash))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let batches = batches(digests.iter().copied(), BLOCKING_CALL_LIMITS, Digest::size_bytes);
        let read = futures::stream::iter(batches).map(|digests| {
            let directory = Arc::clone(&self.directory);
            run_blocking(move || reader::read_all(&directory, &digests))
        });
        read.buffered(MAX_CONCURRENT_BLOCKING_CALLS).concat().await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let batches = batches(blobs, BLOCKING_CALL_LIMITS, |(digest, _)| digest.size_bytes());
        let written = futures::stream::iter(batches).map(|blobs| {
            let target = self.target();
            run_blocking(move || writer::write_all(&target, blobs))
        });
        written.buffered(MAX_CONCURRENT_BLOCKING_CALLS).concat().await
    }
}

#[cfg(test)]
mod tests;
