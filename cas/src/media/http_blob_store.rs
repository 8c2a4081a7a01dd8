//! A store behind plain HTTP.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use reqwest::Body;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, collect, one_chunk};
use crate::blocking::run_blocking;
use crate::decorators::verifying_blob_store::{is_whole, verified, verify};
use crate::error::{BackEndFailure, Error};
use crate::media::http_cache::{Answer, HttpCache};
use crate::media::resumed_stream::{OpenPart, cut, resumed};
use crate::retry::retried;

/// Requests of one call under way at the same time: HTTP has no batches.
const CONCURRENCY: usize = 64;
/// Blobs up to this size are sent from memory, so that the request can be made again when it fails.
const SMALL: u64 = 1 << 20;

/// The blobs of an [`HttpCache`].
///
/// The protocol names a blob by its hash alone, so what the server says about sizes is checked, and every whole read
/// and write is hashed: a faulty server or network cannot hand out wrong bytes. A read that breaks goes on where it
/// broke. A write of more than 1 MiB that breaks is an error, for its source cannot be read twice and the protocol knows
/// no resume; whoever has the source tries again. Servers that check what they are sent, like bazel-remote, take SHA-256 only and refuse other blobs.
pub struct HttpBlobStore {
    cache: Arc<HttpCache>,
}

impl HttpBlobStore {
    /// The blobs of `cache`.
    pub fn new(cache: Arc<HttpCache>) -> Self {
        Self { cache }
    }

    /// Whether the server has the blob, as far as it says.
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let head = retried(|| self.cache.head(self.cache.blob(digest))).await?;
        // One of another size is not this blob. Some servers do not tell.
        Ok(head.is_some_and(|size| size.is_none_or(|size| size == digest.size_bytes())))
    }

    async fn put_bytes(&self, digest: Digest, blob: Bytes) -> Result<(), Error> {
        let blob = run_blocking(move || verify(digest, blob)).await?;
        let put = || {
            self.cache.put(
                self.cache.blob(digest),
                digest.size_bytes(),
                Body::from(blob.clone()),
            )
        };
        retried(put).await
    }

    async fn put_stream(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        // The stream can be sent once only, so the question comes first whether it has to be, and can be.
        if self.has(digest).await? {
            return Ok(());
        }
        let failure = Arc::new(Mutex::new(None));
        let failed = Arc::clone(&failure);
        let chunks = verified(digest, blob).map_err(move |error| {
            let text = error.to_string();
            *failed.lock() = Some(error);
            text
        });
        let url = self.cache.blob(digest);
        let put = self
            .cache
            .put(url, digest.size_bytes(), Body::wrap_stream(chunks))
            .await;
        // When the source failed, the broken request is not the cause.
        match failure.lock().take() {
            Some(error) => Err(error),
            None => put,
        }
    }
}

/// Opens a part of a blob, wherever the server begins to send it.
async fn open_part(
    cache: Arc<HttpCache>,
    digest: Digest,
    offset: u64,
    length: u64,
) -> Result<BlobStream, Error> {
    let part = (offset > 0 || length < digest.size_bytes()).then_some((offset, length));
    let answer = cache.get(cache.blob(digest), part).await?;
    let Answer {
        start,
        length: announced,
        body,
    } = answer.ok_or(Error::NotFound(digest))?;
    let faulty = |reason: String| {
        let context = format!("the HTTP cache answers wrongly for blob {digest}");
        Error::back_end(context, BackEndFailure::Faulty)(reason)
    };
    if start > offset {
        return Err(faulty(format!("it begins with byte {start} instead of {offset}")));
    }
    let end = if start == 0 {
        digest.size_bytes()
    } else {
        offset + length
    };
    if let Some(announced) = announced
        && announced != length
        && announced != end - start
    {
        return Err(faulty(format!(
            "it announces {announced} bytes instead of {length}"
        )));
    }
    Ok(match part {
        Some(_) => cut(body, offset - start, length),
        // Uncut, so that too many bytes are noticed.
        None => body,
    })
}

#[async_trait]
impl BlobStore for HttpBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut seen = HashSet::with_capacity(digests.len());
        let distinct: Vec<Digest> = digests
            .iter()
            .filter(|digest| !digest.is_empty_blob() && seen.insert(**digest))
            .copied()
            .collect();
        futures::stream::iter(distinct)
            .map(|digest| async move { Ok((!self.has(digest).await?).then_some(digest)) })
            .buffered(CONCURRENCY)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let BlobRange { offset, limit } = range;
        let Some(rest) = digest.size_bytes().checked_sub(offset) else {
            return Err(Error::OffsetOutOfRange { digest, offset });
        };
        let length = limit.map_or(rest, |limit| limit.min(rest));
        if length == 0 {
            // No range of HTTP says this. The answer is known if the blob is there.
            return if digest.is_empty_blob() || self.has(digest).await? {
                Ok(one_chunk(Bytes::new()))
            } else {
                Err(Error::NotFound(digest))
            };
        }
        let cache = Arc::clone(&self.cache);
        let open: OpenPart =
            Arc::new(move |offset, length| Box::pin(open_part(Arc::clone(&cache), digest, offset, length)));
        let first = retried(|| open(offset, length)).await?;
        let stream = resumed(first, offset, length, open);
        Ok(if is_whole(digest, range) {
            verified(digest, stream)
        } else {
            stream
        })
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        if digest.size_bytes() > SMALL {
            return self.put_stream(digest, blob).await;
        }
        // Verified on the way, so that a source without end is noticed before it fills the memory.
        let blob = collect(verified(digest, blob)).await?;
        self.put_bytes(digest, blob).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let url = self.cache.blob(Digest::new(function, hash, 0));
        let head = retried(|| self.cache.head(url.clone())).await?;
        // Servers that do not tell the size are of no help.
        Ok(head.flatten().map(|size| Digest::new(function, hash, size)))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        futures::stream::iter(digests.iter().copied())
            .map(|digest| crate::blob_store::read_whole(self, digest))
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        futures::stream::iter(blobs)
            .map(|(digest, blob)| self.put_bytes(digest, blob))
            .buffered(CONCURRENCY)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests;
