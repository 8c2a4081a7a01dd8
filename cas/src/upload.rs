//! Bringing blobs into a store, each only if it is missing there.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::blob_store::{BlobStore, one_chunk};
use crate::error::Error;
use crate::file_stream::{file_stream, run_blocking};

/// Blobs up to this size go in batches.
const SMALL: u64 = 1 << 20;
/// Bytes in one batch: below what a message holds.
const BATCH_BYTES: u64 = 3 << 20;
/// Blobs in one batch.
const BATCH_BLOBS: usize = 1024;
/// Batches and large blobs under way at the same time.
const CONCURRENCY: usize = 8;

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// In memory.
    Bytes(Bytes),
    /// In a file, which must not change until the upload is done: the store refuses bytes that are not the digest's.
    File(PathBuf),
}

/// What an upload had to move.
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
    let mut summary = UploadSummary::default();
    let mut work = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for digest in missing {
        let Some(source) = sources.remove(&digest) else {
            continue;
        };
        summary.blobs += 1;
        summary.bytes += digest.size_bytes();
        if digest.size_bytes() > SMALL {
            work.push(Work::Large(digest, source));
            continue;
        }
        if batch_bytes + digest.size_bytes() > BATCH_BYTES || batch.len() == BATCH_BLOBS {
            work.push(Work::Batch(std::mem::take(&mut batch)));
            batch_bytes = 0;
        }
        batch_bytes += digest.size_bytes();
        batch.push((digest, source));
    }
    if !batch.is_empty() {
        work.push(Work::Batch(batch));
    }
    let running = work.into_iter().map(|work| Ok(work.run(store)));
    futures::stream::iter(running)
        .try_buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    Ok(summary)
}

enum Work {
    Batch(Vec<(Digest, BlobSource)>),
    Large(Digest, BlobSource),
}

impl Work {
    async fn run(self, store: &dyn BlobStore) -> Result<(), Error> {
        match self {
            Self::Large(digest, BlobSource::Bytes(blob)) => store.write(digest, one_chunk(blob)).await,
            Self::Large(digest, BlobSource::File(path)) => {
                let (file, path) = run_blocking(move || open(path)).await?;
                // One byte more than announced, so that a file that has grown is noticed.
                let limit = digest.size_bytes().saturating_add(1);
                store.write(digest, file_stream(file, path, limit)).await
            }
            Self::Batch(batch) => {
                let blobs = run_blocking(move || read_all(batch)).await?;
                let written = store.write_batch(blobs).await;
                written.into_iter().collect()
            }
        }
    }
}

fn open(path: PathBuf) -> Result<(File, PathBuf), Error> {
    let file = File::open(&path).map_err(Error::io(format!("cannot open {}", path.display())))?;
    Ok((file, path))
}

fn read_all(batch: Vec<(Digest, BlobSource)>) -> Result<Vec<(Digest, Bytes)>, Error> {
    let read = |(digest, source): (Digest, BlobSource)| match source {
        BlobSource::Bytes(blob) => Ok((digest, blob)),
        BlobSource::File(path) => {
            let (file, path) = open(path)?;
            let limit = digest.size_bytes().saturating_add(1);
            let blob = crate::file_stream::read_up_to(&file, limit)
                .map_err(Error::io(format!("cannot read {}", path.display())))?;
            Ok((digest, blob))
        }
    };
    batch.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
