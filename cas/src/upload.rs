//! Uploads of blobs into a store, each only if it is missing there.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::batching::{BatchLimits, batches};
use crate::blob_store::{BlobRange, BlobStore, one_chunk};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::file_stream::file_stream;

/// Size in bytes up to which blobs are uploaded in batches.
const MAX_BATCHED_BLOB_SIZE: u64 = 1 << 20;
/// Limits of one batch: below the limit of a message.
const BATCH_LIMITS: BatchLimits = BatchLimits {
    items: 1024,
    bytes: 3 << 20,
};
/// Batches and large blobs that are uploaded at the same time.
const MAX_CONCURRENT_TRANSFERS: usize = 8;

/// Source of the bytes of a blob.
#[derive(Clone)]
pub enum BlobSource {
    /// In memory.
    Bytes(Bytes),
    /// In a file, which must not change until the upload has ended: the store refuses bytes that do not match the digest.
    File(PathBuf),
    /// In another store.
    Store(Arc<dyn BlobStore>),
}

impl fmt::Debug for BlobSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(blob) => write!(formatter, "{} bytes", blob.len()),
            Self::File(path) => path.fmt(formatter),
            Self::Store(_) => formatter.write_str("a store"),
        }
    }
}

/// Count of the blobs that an upload sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadSummary {
    /// Blobs that were missing.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Uploads those of `blobs` that the store lacks, each once: small ones in batches, large ones as streams. After the
/// first failure nothing more is started.
pub async fn upload_missing(
    store: &dyn BlobStore,
    blobs: impl IntoIterator<Item = (Digest, BlobSource)>,
) -> Result<UploadSummary, Error> {
    let mut sources: HashMap<Digest, BlobSource> = blobs.into_iter().collect();
    let digests: Vec<Digest> = sources.keys().copied().collect();
    let missing = store.find_missing(&digests).await?;
    let missing = missing
        .into_iter()
        .filter_map(|digest| sources.remove_entry(&digest));
    upload(store, missing).await
}

/// Uploads `blobs`, each once, whether the store has them or not: small ones in batches, large ones as streams. After
/// the first failure nothing more is started.
pub async fn upload(
    store: &dyn BlobStore,
    blobs: impl IntoIterator<Item = (Digest, BlobSource)>,
) -> Result<UploadSummary, Error> {
    let mut summary = UploadSummary::default();
    let mut transfers = Vec::new();
    let mut small = Vec::new();
    for (digest, source) in blobs {
        summary.blobs += 1;
        summary.bytes += digest.size_bytes();
        if digest.size_bytes() > MAX_BATCHED_BLOB_SIZE {
            transfers.push(Transfer::Large(digest, source));
        } else {
            small.push((digest, source));
        }
    }
    let batches = batches(small, BATCH_LIMITS, |(digest, _)| digest.size_bytes());
    transfers.extend(batches.into_iter().map(Transfer::Batch));
    let running = transfers.into_iter().map(|transfer| Ok(transfer.run(store)));
    futures::stream::iter(running)
        .try_buffer_unordered(MAX_CONCURRENT_TRANSFERS)
        .try_collect::<()>()
        .await?;
    Ok(summary)
}

/// Blobs that are sent by one call.
enum Transfer {
    Batch(Vec<(Digest, BlobSource)>),
    Large(Digest, BlobSource),
}

impl Transfer {
    async fn run(self, store: &dyn BlobStore) -> Result<(), Error> {
        match self {
            Self::Large(digest, BlobSource::Bytes(blob)) => store.write(digest, one_chunk(blob)).await,
            Self::Large(digest, BlobSource::File(path)) => {
                let (file, path) = run_blocking(move || open(path)).await?;
                // One byte more than announced, so that a file that has grown is detected.
                let limit = digest.size_bytes().saturating_add(1);
                store.write(digest, file_stream(file, path, limit)).await
            }
            Self::Large(digest, BlobSource::Store(from)) => {
                let blob = from.read(digest, BlobRange::default()).await?;
                store.write(digest, blob).await
            }
            Self::Batch(batch) => {
                let mut stored: Vec<(Digest, Arc<dyn BlobStore>)> = vec![];
                let mut local = vec![];
                for (digest, source) in batch {
                    match source {
                        BlobSource::Store(from) => stored.push((digest, from)),
                        BlobSource::Bytes(blob) => local.push((digest, LocalSource::Bytes(blob))),
                        BlobSource::File(path) => local.push((digest, LocalSource::File(path))),
                    }
                }
                let mut blobs = run_blocking(move || read_all(local)).await?;
                for group in stored.chunk_by(|(_, one), (_, other)| Arc::ptr_eq(one, other)) {
                    let digests: Vec<Digest> = group.iter().map(|(digest, _)| *digest).collect();
                    let read = group[0].1.read_batch(&digests).await;
                    for (digest, blob) in digests.into_iter().zip(read) {
                        blobs.push((digest, blob?));
                    }
                }
                let written = store.write_batch(blobs).await;
                written.into_iter().collect()
            }
        }
    }
}

/// Source of a blob on this machine, read on a thread for blocking work.
enum LocalSource {
    Bytes(Bytes),
    File(PathBuf),
}

fn open(path: PathBuf) -> Result<(File, PathBuf), Error> {
    let file = File::open(&path).map_err(Error::io(format_args!("cannot open {}", path.display())))?;
    Ok((file, path))
}

fn read_all(batch: Vec<(Digest, LocalSource)>) -> Result<Vec<(Digest, Bytes)>, Error> {
    let read = |(digest, source): (Digest, LocalSource)| match source {
        LocalSource::Bytes(blob) => Ok((digest, blob)),
        LocalSource::File(path) => {
            let (file, path) = open(path)?;
            let limit = digest.size_bytes().saturating_add(1);
            let blob = crate::file_stream::read_up_to(&file, limit)
                .map_err(Error::io(format_args!("cannot read {}", path.display())))?;
            Ok((digest, blob))
        }
    };
    batch.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
