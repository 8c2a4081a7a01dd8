//! Concurrent writes of one blob, reduced to one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::Digest;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::blob_store::{BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Time without a byte from the writer of a blob after which the next one writes it too.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Lets one writer of a blob through at a time. The others leave their streams unread, which holds their clients back,
/// and end when the first one has written the blob: it takes its space on disk once. If the first one fails or stalls,
/// the next one writes.
pub struct CoalescingBlobStore {
    inner: Arc<dyn BlobStore>,
    uploads: Mutex<HashMap<Digest, Arc<Upload>>>,
}

/// The writers of one blob.
#[derive(Default)]
struct Upload {
    /// Locked by the one that writes.
    writer: AsyncMutex<()>,
    /// Bytes that came in so far, of all writers.
    progress: Arc<AtomicU64>,
}

/// Membership of one writer in an upload. The last one removes the upload.
struct Participant<'a> {
    store: &'a CoalescingBlobStore,
    digest: Digest,
    upload: Arc<Upload>,
}

impl CoalescingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            uploads: Mutex::default(),
        }
    }

    fn participate(&self, digest: Digest) -> Participant<'_> {
        let upload = Arc::clone(self.uploads.lock().entry(digest).or_default());
        Participant {
            store: self,
            digest,
            upload,
        }
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        let mut uploads = self.store.uploads.lock();
        // One reference is in the map, one is here.
        if Arc::strong_count(&self.upload) == 2 {
            uploads.remove(&self.digest);
        }
    }
}

#[async_trait]
impl BlobStore for CoalescingBlobStore {
    forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let participant = self.participate(digest);
        let upload = &participant.upload;
        let mut waited = false;
        let _writing = loop {
            if let Ok(writing) = upload.writer.try_lock() {
                break Some(writing);
            }
            waited = true;
            let before = upload.progress.load(Ordering::Relaxed);
            if let Ok(writing) = tokio::time::timeout(STALL_TIMEOUT, upload.writer.lock()).await {
                break Some(writing);
            }
            if upload.progress.load(Ordering::Relaxed) == before {
                break None;
            }
        };
        if waited && self.inner.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        let progress = Arc::clone(&upload.progress);
        let counted = blob.inspect_ok(move |bytes| {
            progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        self.inner.write(digest, Box::pin(counted)).await
    }
}

#[cfg(test)]
mod tests;
