//! Copies to the side of a mirror that lacks a blob.

use std::collections::HashSet;
use std::sync::Arc;

use bitzel_proto::Digest;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::blob_store::{BlobRange, BlobStore};
use crate::error::Error;
use bitzel_proto::with_causes;

/// Repairs that wait at most. What is beyond is not repaired now: it will be noticed again.
const QUEUE: usize = 100_000;
/// Copies under way at the same time.
const CONCURRENCY: usize = 8;

/// A background task that copies blobs from one side to the other. Ends with this value.
pub(super) struct Repair {
    queue: mpsc::Sender<(Digest, usize)>,
    /// What waits or is being copied, so that nothing is copied twice at a time.
    under_way: Arc<Mutex<HashSet<(Digest, usize)>>>,
    left: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Repair {
    pub(super) fn start(sides: [Arc<dyn BlobStore>; 2]) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        let (count, left) = watch::channel(0);
        let under_way = Arc::new(Mutex::new(HashSet::new()));
        let done = Arc::clone(&under_way);
        let task = tokio::spawn(async move {
            tokio_stream::wrappers::ReceiverStream::new(requests)
                .for_each_concurrent(CONCURRENCY, |(digest, side): (Digest, usize)| {
                    let (sides, done, count) = (&sides, &done, &count);
                    async move {
                        count_and_copy(sides, digest, side).await;
                        let left = {
                            let mut under_way = done.lock();
                            under_way.remove(&(digest, side));
                            under_way.len()
                        };
                        count.send_replace(left);
                    }
                })
                .await;
        });
        Self {
            queue,
            under_way,
            left,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Has `digest` copied to `side`, soon.
    pub(super) fn request(&self, digest: Digest, side: usize) {
        let mut under_way = self.under_way.lock();
        if under_way.insert((digest, side)) && self.queue.try_send((digest, side)).is_err() {
            under_way.remove(&(digest, side));
        }
    }

    pub(super) async fn settled(&self) {
        let mut left = self.left.clone();
        while !self.under_way.lock().is_empty() {
            if left.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn count_and_copy(sides: &[Arc<dyn BlobStore>; 2], digest: Digest, side: usize) {
    let copied = match sides[1 - side].read(digest, BlobRange::default()).await {
        Ok(blob) => sides[side].write(digest, blob).await,
        Err(error) => Err(error),
    };
    count(digest, &copied);
}

/// Tells operators what became of a repair.
pub(super) fn count(digest: Digest, copied: &Result<(), Error>) {
    let outcome = if copied.is_ok() { "ok" } else { "error" };
    metrics::counter!("bitzel_mirror_repairs_total", "outcome" => outcome).increment(1);
    match copied {
        Ok(()) => debug!(%digest, "a blob that one side of a mirror lacked was copied there"),
        Err(error) => {
            let error = with_causes(error);
            warn!(%digest, error, "a blob that one side of a mirror lacks could not be copied there");
        }
    }
}
