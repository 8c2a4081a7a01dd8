//! The trait that every store and decorator implements.

pub mod chunk_limit;
#[doc(hidden)]
pub mod forwarding;
mod lease;
pub mod verification;

use std::pin::Pin;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::error::Error;

pub use lease::Lease;

/// A blob in transit: chunks of any size, in order. An `Err` ends the stream.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// The part of a blob that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobRange {
    /// Bytes to skip at the start. An offset beyond the end is an error, the end itself is not.
    pub offset: u64,
    /// At most this many bytes; `None` reads to the end.
    pub limit: Option<u64>,
}

/// Calls that run at the same time for the batches of a store without batches of its own.
const MAX_CONCURRENT_CALLS: usize = 32;

/// A content-addressable store.
///
/// Contract: a blob that [`BlobStore::write`] accepted is found by every later call until it is evicted. A blob is
/// either present whole or absent. A store never serves bytes that do not belong to the digest, as far as it can check.
/// Dropping a future or a stream abandons that call and leaves nothing behind.
///
/// The empty blob is always present: implementations need not store it, but [`BlobStore::find_missing`] never reports
/// it.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Returns the digests that are absent, each once. Extends the lifetime of those that are present: a client that
    /// was told "present" relies on it for as long as its build takes.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error>;

    /// Streams a blob. [`Error::NotFound`] when it is absent.
    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error>;

    /// Stores a blob. Success means that the blob is present, complete and correct. Storing a blob that exists already
    /// succeeds and may leave the stream unread.
    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error>;

    /// Protects those of `digests` that are present from eviction until the lease is dropped; it says nothing about
    /// absent ones. For inputs of a running action: a blob that was present when it started must be present when it
    /// reads.
    ///
    /// Stores that never evict, or cannot prevent it, return [`Lease::none`]. Decorators forward the call.
    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error>;

    /// Finds the digest of a blob by its hash alone, as in the paths of HTTP caches; `None` if the blob is absent.
    /// Counts as a use of the blob.
    ///
    /// A hint: read the blob to be sure. Stores behind HTTP and S3 ask their server. Stores that cannot look up by hash
    /// alone return `None`, like those behind gRPC (see [`crate::DigestRememberingBlobStore`]). Decorators forward the
    /// call.
    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error>;

    /// Reads small blobs whole, in the order of `digests`. Stores with a cheaper way than one read each override it.
    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        read_each(self, digests, MAX_CONCURRENT_CALLS).await
    }

    /// Writes small blobs whole, with the results in their order.
    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        futures::stream::iter(blobs)
            .map(|(digest, blob)| async move { self.write(digest, one_chunk(blob)).await })
            .buffered(MAX_CONCURRENT_CALLS)
            .collect()
            .await
    }
}

/// Streams a blob in memory as one chunk.
pub fn one_chunk(blob: Bytes) -> BlobStream {
    futures::stream::once(async move { Ok(blob) }).boxed()
}

/// Collects a stream. Only for blobs whose size is known to be small.
pub async fn collect(stream: BlobStream) -> Result<Bytes, Error> {
    Ok(join(stream.try_collect().await?))
}

/// Joins the chunks of a blob. One chunk is not copied.
pub(crate) fn join(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.remove(0);
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        whole.extend_from_slice(&chunk);
    }
    whole.freeze()
}

/// Reads small blobs whole by one read each, at most `concurrency` at the same time, with the results in their order.
pub(crate) async fn read_each<S: BlobStore + ?Sized>(
    store: &S,
    digests: &[Digest],
    concurrency: usize,
) -> Vec<Result<Bytes, Error>> {
    futures::stream::iter(digests.iter().copied())
        .map(|digest| read_whole(store, digest))
        .buffered(concurrency)
        .collect()
        .await
}

/// Reads one small blob whole.
pub async fn read_whole<S: BlobStore + ?Sized>(store: &S, digest: Digest) -> Result<Bytes, Error> {
    if digest.is_empty_blob() {
        return Ok(Bytes::new());
    }
    collect(store.read(digest, BlobRange::default()).await?).await
}
