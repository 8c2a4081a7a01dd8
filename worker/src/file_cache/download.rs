//! Download of blobs: small ones in batches, large ones as streams. All are checked.

use std::collections::HashMap;
use std::io::Write;

use bitzel_cas::batching::{BatchLimits, batches};
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobRange, BlobStore};
use bitzel_proto::Digest;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;

use super::disk::{self, TemporaryFile};
use super::fetch::Fetch;
use super::index::CachedFile;
use super::key::FileKey;
use super::{FileCache, FileLease};
use crate::error::Error;

/// Largest blob that is read as part of a batch.
const MAX_BATCHED_BLOB_BYTES: u64 = 256 << 10;
/// Limits of one batch. A response with its digests has to fit into the 4 MiB that gRPC allows by default.
const BATCH_LIMITS: BatchLimits = BatchLimits {
    items: 2_000,
    bytes: 3 << 20,
};

/// A batch: digests and the files to create from each.
type Batch = Vec<(Digest, Vec<FileKey>)>;

/// Downloads all of `wanted` into the cache, held by `lease`. Tries all blobs before it reports the missing ones.
pub(super) async fn download(
    cache: &FileCache,
    fetch: &Fetch,
    store: &dyn BlobStore,
    wanted: HashMap<Digest, Vec<FileKey>>,
    lease: &mut FileLease,
) -> Result<(), Error> {
    fetch.purpose.count_fetched(wanted.values().map(Vec::len).sum());
    let transfers = fetch.purpose.max_concurrent_transfers();
    let (large, small): (Batch, Batch) = wanted
        .into_iter()
        .partition(|(digest, _)| digest.size_bytes() > MAX_BATCHED_BLOB_BYTES);
    let batches = batches(small, BATCH_LIMITS, |(digest, _)| digest.size_bytes());
    let large = futures::stream::iter(large)
        .map(|(digest, keys)| async move {
            match stream(fetch, store, digest, keys).await {
                Err(Error::Store(bitzel_cas::Error::NotFound(digest))) => Ok((vec![], vec![digest])),
                other => other.map(|files| (files, vec![])),
            }
        })
        .buffer_unordered(transfers);
    let small = futures::stream::iter(batches)
        .map(|batch| read_batch(fetch, store, batch))
        .buffer_unordered(transfers);
    let mut missing = vec![];
    let mut done = futures::stream::select(large, small);
    while let Some((files, absent)) = done.try_next().await? {
        for file in files {
            cache.register(file, lease);
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
    fetch: &Fetch,
    store: &dyn BlobStore,
    batch: Batch,
) -> Result<(Vec<CachedFile>, Vec<Digest>), Error> {
    // The empty blob exists even if it is not stored.
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
    let files = blocking(fetch, move |fetch| {
        let written = present
            .par_iter()
            .map(|(digest, blob, keys)| disk::write_small(fetch, *digest, blob, keys));
        Ok(written.collect::<Result<Vec<_>, Error>>()?.concat())
    })
    .await?;
    Ok((files, missing))
}

async fn stream(
    fetch: &Fetch,
    store: &dyn BlobStore,
    digest: Digest,
    keys: Vec<FileKey>,
) -> Result<Vec<CachedFile>, Error> {
    let mut chunks = store.read(digest, BlobRange::default()).await?;
    let mut file = blocking(fetch, |fetch| TemporaryFile::create(fetch.directories())).await?;
    let mut hasher = digest.function().hasher();
    let mut size = 0;
    while let Some(chunk) = chunks.try_next().await? {
        size += chunk.len() as u64;
        (file, hasher) = blocking(fetch, move |_| {
            hasher.update(&chunk);
            file.file
                .write_all(&chunk)
                .map_err(|source| Error::io(format!("write blob {digest}"))(source))?;
            Ok((file, hasher))
        })
        .await?;
        if size > digest.size_bytes() {
            break;
        }
    }
    disk::check_digest(digest, hasher.finish())?;
    blocking(fetch, move |fetch| {
        let Some((first, rest)) = keys.split_first() else {
            return Ok(vec![]);
        };
        // Before it gets the mode of its key, which may not let the worker read it.
        let mut files = disk::copy(fetch, file.path.path(), digest, rest)?;
        files.push(fetch.publish(file, first)?);
        Ok(files)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    fetch: &Fetch,
    work: impl FnOnce(&Fetch) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let fetch = fetch.clone();
    run_blocking(move || work(&fetch)).await
}
