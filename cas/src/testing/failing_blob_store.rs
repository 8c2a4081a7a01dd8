//! Blob stores that fail, for the tests of decorators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::{BackEndFailure, Error};

/// Fails every call, like a server that is down.
pub(crate) struct FailingBlobStore;

pub(crate) fn down() -> Error {
    Error::back_end("the store is down", BackEndFailure::Unavailable)("connection refused")
}

#[async_trait]
impl BlobStore for FailingBlobStore {
    async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        Err(down())
    }

    async fn read(&self, _: Digest, _: BlobRange) -> Result<BlobStream, Error> {
        Err(down())
    }

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        Err(down())
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        Err(down())
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Err(down())
    }
}

/// A store that can be taken down and up again, or made to break its streams in the middle.
pub(crate) struct SwitchedBlobStore {
    pub(crate) inner: Arc<dyn BlobStore>,
    pub(crate) is_down: AtomicBool,
    pub(crate) breaks_streams: AtomicBool,
}

impl SwitchedBlobStore {
    pub(crate) fn new(inner: Arc<dyn BlobStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            is_down: AtomicBool::new(false),
            breaks_streams: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.is_down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn break_streams(&self) {
        self.breaks_streams.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(down());
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for SwitchedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.check()?;
        self.inner.find_missing(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.check()?;
        let stream = self.inner.read(digest, range).await?;
        if !self.breaks_streams.load(Ordering::SeqCst) {
            return Ok(stream);
        }
        let half = |chunk: Result<Bytes, Error>| chunk.map(|chunk| chunk.slice(..chunk.len() / 2));
        let broken = futures::stream::once(async { Err(down()) });
        Ok(stream.take(1).map(half).chain(broken).boxed())
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.check()?;
        self.inner.write(digest, blob).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.check()?;
        self.inner.lease(digests).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        self.check()?;
        self.inner.resolve(function, hash).await
    }
}
