//! A decorator under which writers of one blob share the work.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::Error;

/// How long the bytes of one writer may fail to come before the next one goes on by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets one writer of a blob through at a time. The others leave their streams unread, which holds their clients back,
/// and are done when the first one is: the blob costs its room on disk once. If the first one fails or stands still,
/// the next one takes its turn.
pub struct CoalescingBlobStore {
    inner: Arc<dyn BlobStore>,
    turns: Mutex<HashMap<Digest, Arc<Turn>>>,
}

/// Whose turn it is to write a blob.
#[derive(Default)]
struct Turn {
    writer: AsyncMutex<()>,
    /// Bytes that came in so far, of all writers.
    progress: Arc<AtomicU64>,
}

/// A writer's part in a turn; the last one removes it.
struct Participant<'a> {
    store: &'a CoalescingBlobStore,
    digest: Digest,
    turn: Arc<Turn>,
}

impl CoalescingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            turns: Mutex::default(),
        }
    }

    fn participate(&self, digest: Digest) -> Participant<'_> {
        let turn = Arc::clone(self.turns.lock().entry(digest).or_default());
        Participant {
            store: self,
            digest,
            turn,
        }
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        let mut turns = self.store.turns.lock();
        // One is in the table, one is here.
        if Arc::strong_count(&self.turn) == 2 {
            turns.remove(&self.digest);
        }
    }
}

#[async_trait]
impl BlobStore for CoalescingBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.inner.find_missing(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.inner.read(digest, range).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let participant = self.participate(digest);
        let turn = &participant.turn;
        let mut waited = false;
        let _writing = loop {
            if let Ok(writing) = turn.writer.try_lock() {
                break Some(writing);
            }
            waited = true;
            let before = turn.progress.load(Ordering::Relaxed);
            if let Ok(writing) = tokio::time::timeout(PATIENCE, turn.writer.lock()).await {
                break Some(writing);
            }
            if turn.progress.load(Ordering::Relaxed) == before {
                break None;
            }
        };
        if waited && self.inner.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        let progress = Arc::clone(&turn.progress);
        let counted = blob.inspect_ok(move |bytes| {
            progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        self.inner.write(digest, Box::pin(counted)).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.inner.lease(digests).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        self.inner.resolve(function, hash).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.inner.read_batch(digests).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.inner.write_batch(blobs).await
    }
}

#[cfg(test)]
mod tests;
