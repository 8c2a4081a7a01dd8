//! Downloads blobs: small ones in batches, large ones streamed, each checked.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobRange, BlobStore};
use bitzel_proto::Digest;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::disk::{self, TemporaryFile};
use super::key::FileKey;
use super::state::CachedFile;
use super::{FileCache, FileLease, count};
use crate::error::Error;
use crate::scratch::Scratch;

/// Blobs up to this size are read whole, in batches.
const SMALL: u64 = 256 << 10;
/// Bytes of blobs in one batch: a response has to fit into the 4 MiB that gRPC allows by default, with its digests.
const BATCH_BYTES: u64 = 3 << 20;
/// Blobs in one batch, for the same reason.
const BATCH_BLOBS: usize = 2_000;
/// Transfers at the same time, of batches as of streams.
const TRANSFERS: usize = 8;

/// A batch: digests and the files to make of each.
type Batch = Vec<(Digest, Vec<FileKey>)>;

/// Brings all of `wanted` into the cache, held by `lease`. All blobs are tried before the missing ones are reported.
pub(super) async fn download(
    cache: &FileCache,
    store: &dyn BlobStore,
    wanted: HashMap<Digest, Vec<FileKey>>,
    lease: &mut FileLease,
) -> Result<(), Error> {
    count("fetched", wanted.values().map(Vec::len).sum());
    let mut batches: Vec<Batch> = vec![];
    let mut large: Batch = vec![];
    let mut batch_bytes = 0;
    for (digest, keys) in wanted {
        if digest.size_bytes() > SMALL {
            large.push((digest, keys));
        } else {
            let full =
                |batch: &Batch| batch.len() >= BATCH_BLOBS || batch_bytes + digest.size_bytes() > BATCH_BYTES;
            if batches.last().is_none_or(full) {
                batches.push(vec![]);
                batch_bytes = 0;
            }
            batch_bytes += digest.size_bytes();
            if let Some(batch) = batches.last_mut() {
                batch.push((digest, keys));
            }
        }
    }
    let scratch = &cache.scratch;
    let large = futures::stream::iter(large)
        .map(|(digest, keys)| async move {
            match stream(scratch, store, digest, keys).await {
                Err(Error::Store(bitzel_cas::Error::NotFound(digest))) => Ok((vec![], vec![digest])),
                other => other.map(|files| (files, vec![])),
            }
        })
        .buffer_unordered(TRANSFERS);
    let small = futures::stream::iter(batches)
        .map(|batch| read_batch(scratch, store, batch))
        .buffer_unordered(TRANSFERS);
    let mut missing = vec![];
    let mut done = futures::stream::select(large, small);
    while let Some((files, absent)) = done.try_next().await? {
        for file in files {
            cache.published(file, lease);
        }
        missing.extend(absent);
    }
    if missing.is_empty() {
        Ok(())
    } else {
        missing.sort_unstable();
        Err(Error::MissingBlobs(missing))
    }
}

async fn read_batch(
    scratch: &Arc<Scratch>,
    store: &dyn BlobStore,
    batch: Batch,
) -> Result<(Vec<CachedFile>, Vec<Digest>), Error> {
    // The empty blob exists without being stored.
    let digests: Vec<Digest> = batch
        .iter()
        .map(|(digest, _)| *digest)
        .filter(|digest| !digest.is_empty_blob())
        .collect();
    let mut blobs = store.read_batch(&digests).await.into_iter();
    let mut missing = vec![];
    let mut present: Vec<(Digest, Bytes, Vec<FileKey>)> = vec![];
    for (digest, keys) in batch {
        if digest.is_empty_blob() {
            present.push((digest, Bytes::new(), keys));
            continue;
        }
        match blobs.next() {
            Some(Ok(blob)) => present.push((digest, blob, keys)),
            Some(Err(bitzel_cas::Error::NotFound(_))) | None => missing.push(digest),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    let files = blocking(scratch, move |scratch| {
        let written = present
            .par_iter()
            .map(|(digest, blob, keys)| disk::write_small(scratch, *digest, blob, keys));
        Ok(written.collect::<Result<Vec<_>, Error>>()?.concat())
    })
    .await?;
    Ok((files, missing))
}

async fn stream(
    scratch: &Arc<Scratch>,
    store: &dyn BlobStore,
    digest: Digest,
    keys: Vec<FileKey>,
) -> Result<Vec<CachedFile>, Error> {
    let mut chunks = store.read(digest, BlobRange::default()).await?;
    let mut file = blocking(scratch, TemporaryFile::create).await?;
    let mut hasher = digest.function().hasher();
    let mut size = 0;
    while let Some(chunk) = chunks.try_next().await? {
        size += chunk.len() as u64;
        (file, hasher) = blocking(scratch, move |_| {
            hasher.update(&chunk);
            file.file
                .write_all(&chunk)
                .map_err(Error::io(format!("write blob {digest}")))?;
            Ok((file, hasher))
        })
        .await?;
        if size > digest.size_bytes() {
            break;
        }
    }
    disk::verify(digest, hasher.finish())?;
    blocking(scratch, move |scratch| {
        let Some((first, rest)) = keys.split_first() else {
            return Ok(vec![]);
        };
        let mut files = vec![file.publish(scratch, first)?];
        let source = scratch.root().join(FileCache::relative_path(first));
        files.extend(disk::copy(scratch, &source, digest, rest)?);
        Ok(files)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    scratch: &Arc<Scratch>,
    work: impl FnOnce(&Scratch) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let scratch = Arc::clone(scratch);
    run_blocking(move || work(&scratch)).await
}
