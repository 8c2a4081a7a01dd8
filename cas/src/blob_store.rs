//! The one trait that every store and decorator implements.

mod lease;

use std::pin::Pin;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::error::Error;

pub use lease::Lease;

/// A blob in transit: chunks of any size, in order. An `Err` ends the stream.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Which part of a blob a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobRange {
    /// Bytes to leave out at the start. An offset beyond the end is an error, the end itself is not.
    pub offset: u64,
    /// At most this many bytes; `None` reads to the end.
    pub limit: Option<u64>,
}

/// A content-addressable store.
///
/// Contract: what [`BlobStore::write`] accepted is found by every later call until it is evicted; a blob is either
/// there whole or not at all; a store never serves bytes that do not belong to the digest, as far as it can know.
/// Dropping a future or a stream abandons that call and leaves nothing behind.
///
/// The empty blob is always there: implementations need not store it, [`crate::services`] and
/// [`BlobStore::find_missing`] treat it as present.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// The digests that are absent, each once. Extends the lifetime of those that are present: a client that was
    /// told "present" relies on it for as long as its build takes.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error>;

    /// Streams a blob. [`Error::NotFound`] when it is absent.
    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error>;

    /// Stores a blob. Success means that the blob is there, complete and right. Storing a blob that exists already
    /// is a success and may leave the stream unread.
    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error>;

    /// Keeps those of `digests` that are present from being evicted for as long as the guard lives; it says nothing
    /// about absent ones. For inputs of a running action: what was there when it started must be there when it reads.
    ///
    /// Stores that never evict, or cannot know, do nothing. Decorators pass the call on.
    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let _ = digests;
        Ok(Lease::default())
    }

    /// The digest of a blob of which only the hash is known, as in the paths of HTTP caches; `None` when none is there.
    /// Counts as a use of the blob.
    ///
    /// A hint: read the blob to be sure. Stores that cannot look up by hash alone say `None`, which is the default; those
    /// behind HTTP and S3 ask their server, those behind gRPC cannot
    /// (see [`crate::DigestRememberingBlobStore`]). Decorators pass the call on.
    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let _ = (function, hash);
        Ok(None)
    }

    /// Reads small blobs whole, in the order of `digests`. Stores with a cheaper way than one read each override it.
    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        const CONCURRENCY: usize = 32;
        futures::stream::iter(digests.iter().copied())
            .map(|digest| async move { read_whole(self, digest).await })
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    /// Writes small blobs whole, answering in their order.
    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        const CONCURRENCY: usize = 32;
        futures::stream::iter(blobs)
            .map(|(digest, blob)| async move { self.write(digest, one_chunk(blob)).await })
            .buffered(CONCURRENCY)
            .collect()
            .await
    }
}

/// A stream of one chunk.
pub fn one_chunk(blob: Bytes) -> BlobStream {
    futures::stream::once(async move { Ok(blob) }).boxed()
}

/// Collects a stream. Only for blobs whose size is known to be small.
pub async fn collect(stream: BlobStream) -> Result<Bytes, Error> {
    let mut chunks: Vec<Bytes> = stream.try_collect().await?;
    if chunks.len() == 1 {
        return Ok(chunks.remove(0));
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Reads one small blob whole.
pub async fn read_whole<S: BlobStore + ?Sized>(store: &S, digest: Digest) -> Result<Bytes, Error> {
    if digest.is_empty_blob() {
        return Ok(Bytes::new());
    }
    collect(store.read(digest, BlobRange::default()).await?).await
}
