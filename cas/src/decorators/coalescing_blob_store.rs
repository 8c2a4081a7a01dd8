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

/// Interval in which writers that wait look at the progress of the blob.
const REVIEW_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that must come in within an interval. Otherwise the next writer writes the blob too. The bytes are checked at
/// their end only, so a client that does not have the blob could hold it up for as long as it sends something.
const MIN_BYTES_PER_INTERVAL: u64 = 5 << 20;

/// Lets one writer of a blob through at a time. The others leave their streams unread, which holds their clients back,
/// and end when the first one has written the blob: it takes its space on disk once. If the first one fails or is slow,
/// the next one writes.
pub struct CoalescingBlobStore {
    inner: Arc<dyn BlobStore>,
    uploads: Arc<OngoingUploads>,
    /// Empty if all instances share their blobs.
    tenant: Arc<str>,
}

/// Uploads that go on, by tenant and blob: the writers of one tenant wait for each other, and for nobody else.
#[derive(Default)]
pub struct OngoingUploads(Mutex<HashMap<Key, Arc<Upload>>>);

/// Tenant and blob of an upload.
type Key = (Arc<str>, Digest);

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
    uploads: &'a OngoingUploads,
    key: Key,
    upload: Arc<Upload>,
}

impl CoalescingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self::of_tenant(inner, Arc::default(), "".into())
    }

    /// Decorates the view of a tenant. Its views share `uploads`, which is that of all tenants.
    pub fn of_tenant(inner: Arc<dyn BlobStore>, uploads: Arc<OngoingUploads>, tenant: Arc<str>) -> Self {
        Self {
            inner,
            uploads,
            tenant,
        }
    }

    fn participate(&self, digest: Digest) -> Participant<'_> {
        let key = (Arc::clone(&self.tenant), digest);
        let upload = Arc::clone(self.uploads.0.lock().entry(key.clone()).or_default());
        Participant {
            uploads: &self.uploads,
            key,
            upload,
        }
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        let mut uploads = self.uploads.0.lock();
        // One reference is in the map, one is here.
        if Arc::strong_count(&self.upload) == 2 {
            uploads.remove(&self.key);
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
            if let Ok(writing) = tokio::time::timeout(REVIEW_INTERVAL, upload.writer.lock()).await {
                break Some(writing);
            }
            let progress = upload.progress.load(Ordering::Relaxed) - before;
            if progress < MIN_BYTES_PER_INTERVAL {
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
