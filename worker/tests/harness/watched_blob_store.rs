//! A store that counts reads and can hold one back.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::{BlobRange, BlobStore, BlobStream, Error, MemoryBlobStore};
use bitzel_proto::Digest;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::worker::FUNCTION;

/// Store in memory, or around another one, that counts the reads of each blob.
pub struct WatchedBlobStore {
    inner: Arc<dyn BlobStore>,
    reads: Mutex<HashMap<Digest, usize>>,
    hold: watch::Sender<Option<Digest>>,
    held: Notify,
}

impl Default for WatchedBlobStore {
    fn default() -> Self {
        Self::around(Arc::new(MemoryBlobStore::default()))
    }
}

impl WatchedBlobStore {
    pub fn around(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            reads: Mutex::default(),
            hold: watch::channel(None).0,
            held: Notify::new(),
        }
    }

    /// Number of reads of a blob.
    pub fn reads_of(&self, content: &[u8]) -> usize {
        let digest = FUNCTION.digest(content);
        self.reads.lock().get(&digest).copied().unwrap_or(0)
    }

    /// Holds back reads of this blob from now on.
    pub fn hold(&self, content: &[u8]) {
        self.hold.send_replace(Some(FUNCTION.digest(content)));
    }

    /// Waits until a read is held back.
    pub async fn held(&self) {
        self.held.notified().await;
    }

    /// Releases the reads that are held back.
    pub fn release(&self) {
        self.hold.send_replace(None);
    }
}

#[async_trait]
impl BlobStore for WatchedBlobStore {
    bitzel_cas::forward_blob_store!(inner: find_missing, write, lease, resolve, write_batch);

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        *self.reads.lock().entry(digest).or_default() += 1;
        if *self.hold.borrow() == Some(digest) {
            self.held.notify_one();
            let _ = self.hold.subscribe().wait_for(Option::is_none).await;
        }
        self.inner.read(digest, range).await
    }
}
