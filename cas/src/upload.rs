//! Bringing blobs into a store, each only if it is missing there.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::blob_store::{BlobRange, BlobStore, one_chunk};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::file_stream::file_stream;

/// Blobs up to this size go in batches.
const SMALL: u64 = 1 << 20;
/// Bytes in one batch: below what a message holds.
const BATCH_BYTES: u64 = 3 << 20;
/// Blobs in one batch.
const BATCH_BLOBS: usize = 1024;
/// Batches and large blobs under way at the same time.
const CONCURRENCY: usize = 8;

/// Where the bytes of a blob are.
#[derive(Clone)]
pub enum BlobSource {
    /// In memory.
    Bytes(Bytes),
    /// In a file, which must not change until the upload is done: the store refuses bytes that are not the digest's.
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
    let mut work = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for (digest, source) in blobs {
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
            Self::Large(digest, BlobSource::Store(from)) => {
                let blob = from.read(digest, BlobRange::default()).await?;
                store.write(digest, blob).await
            }
            Self::Batch(batch) => {
                let mut stored: Vec<(Digest, Arc<dyn BlobStore>)> = vec![];
                let mut here = vec![];
                for (digest, source) in batch {
                    match source {
                        BlobSource::Store(from) => stored.push((digest, from)),
                        BlobSource::Bytes(blob) => here.push((digest, Here::Bytes(blob))),
                        BlobSource::File(path) => here.push((digest, Here::File(path))),
                    }
                }
                let mut blobs = run_blocking(move || read_all(here)).await?;
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

/// What can be read where blocking is allowed.
enum Here {
    Bytes(Bytes),
    File(PathBuf),
}

fn open(path: PathBuf) -> Result<(File, PathBuf), Error> {
    let file = File::open(&path).map_err(Error::io(format!("cannot open {}", path.display())))?;
    Ok((file, path))
}

fn read_all(batch: Vec<(Digest, Here)>) -> Result<Vec<(Digest, Bytes)>, Error> {
    let read = |(digest, source): (Digest, Here)| match source {
        Here::Bytes(blob) => Ok((digest, blob)),
        Here::File(path) => {
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
