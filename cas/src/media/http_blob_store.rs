//! Store behind plain HTTP.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use reqwest::Body;

use crate::blob_store::verification::{is_whole, verified, verify};
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, collect, one_chunk, read_each};
use crate::blocking::run_blocking;
use crate::error::{BackEndFailure, Error};
use crate::media::http_cache::{GetResponse, HttpCache};
use crate::media::resumed_stream::{OpenPart, cut, resumed};
use crate::retry::retried;

/// Requests of one call at the same time: HTTP has no batches.
const MAX_CONCURRENT_REQUESTS: usize = 64;
/// Largest size of a blob that is sent from memory, so that a failed request can be repeated.
const MAX_BUFFERED_WRITE_BYTES: u64 = 1 << 20;

/// Blobs of an [`HttpCache`].
///
/// The protocol names a blob by its hash alone, so sizes that the server announces are checked, and every whole read and
/// write is hashed: wrong bytes of a faulty server or network are never returned. A read that breaks continues where it
/// broke. A write of more than 1 MiB that breaks is an error, because its source cannot be read twice and the protocol
/// cannot resume; the caller has to repeat it. Servers that check blobs, like bazel-remote, accept SHA-256 only.
pub struct HttpBlobStore {
    cache: Arc<HttpCache>,
}

impl HttpBlobStore {
    /// Makes a store of the blobs of `cache`.
    pub fn new(cache: Arc<HttpCache>) -> Self {
        Self { cache }
    }

    /// True if the server announces the blob.
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let head = retried(|| self.cache.head(self.cache.blob(digest))).await?;
        // A resource of another size is not this blob. Some servers announce no size.
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
        // The stream can be sent only once, so ask first whether that is necessary, and whether the server can be reached.
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
        // If the source failed, the broken request is not the cause.
        match failure.lock().take() {
            Some(error) => Err(error),
            None => put,
        }
    }
}

/// Opens a part of a blob. The server may send more than was requested.
async fn open_part(
    cache: Arc<HttpCache>,
    digest: Digest,
    offset: u64,
    length: u64,
) -> Result<BlobStream, Error> {
    let part = (offset > 0 || length < digest.size_bytes()).then_some((offset, length));
    let response = cache.get(cache.blob(digest), part).await?;
    let GetResponse {
        start,
        length: announced,
        body,
    } = response.ok_or(Error::NotFound(digest))?;
    let faulty = |reason: String| {
        let context = format_args!("the response of the HTTP cache for blob {digest} is wrong");
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
        // Not cut, so that too many bytes are detected.
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
            .buffered(MAX_CONCURRENT_REQUESTS)
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
            // A range of HTTP cannot be empty. The bytes are known if the blob is present.
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
        if digest.size_bytes() > MAX_BUFFERED_WRITE_BYTES {
            return self.put_stream(digest, blob).await;
        }
        // Verified on the way, so that an endless source is detected before it fills the memory.
        let blob = collect(verified(digest, blob)).await?;
        self.put_bytes(digest, blob).await
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        // The protocol cannot protect a blob from eviction; `find_missing` extends its lifetime.
        Ok(Lease::none())
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let url = self.cache.blob(Digest::new(function, hash, 0));
        let head = retried(|| self.cache.head(url.clone())).await?;
        // Without a size there is no digest.
        Ok(head.flatten().map(|size| Digest::new(function, hash, size)))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        read_each(self, digests, MAX_CONCURRENT_REQUESTS).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        futures::stream::iter(blobs)
            .map(|(digest, blob)| self.put_bytes(digest, blob))
            .buffered(MAX_CONCURRENT_REQUESTS)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests;
