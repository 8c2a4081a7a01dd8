//! Repair of the side of a mirror that lacks a blob.

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

/// Repairs that can wait. Further ones are dropped: the next `find_missing` requests them again.
const MAX_QUEUED_REPAIRS: usize = 100_000;
/// Copies that run at the same time.
const MAX_CONCURRENT_COPIES: usize = 8;

/// Background task that copies blobs from one side to the other. Ends when this is dropped.
pub(super) struct Repair {
    queue: mpsc::Sender<(Digest, usize)>,
    /// Repairs that wait or run, so that no blob is copied twice at the same time.
    under_way: Arc<Mutex<HashSet<(Digest, usize)>>>,
    left: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Repair {
    pub(super) fn start(sides: [Arc<dyn BlobStore>; 2]) -> Self {
        let (queue, requests) = mpsc::channel(MAX_QUEUED_REPAIRS);
        let (count, left) = watch::channel(0);
        let under_way = Arc::new(Mutex::new(HashSet::new()));
        let done = Arc::clone(&under_way);
        let task = tokio::spawn(async move {
            tokio_stream::wrappers::ReceiverStream::new(requests)
                .for_each_concurrent(MAX_CONCURRENT_COPIES, |(digest, side): (Digest, usize)| {
                    let (sides, done, count) = (&sides, &done, &count);
                    async move {
                        copy_and_count(sides, digest, side).await;
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

    /// Queues a copy of `digest` to `side`.
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

async fn copy_and_count(sides: &[Arc<dyn BlobStore>; 2], digest: Digest, side: usize) {
    let copied = match sides[1 - side].read(digest, BlobRange::default()).await {
        Ok(blob) => sides[side].write(digest, blob).await,
        Err(error) => Err(error),
    };
    count(digest, &copied);
}

/// Counts and logs the outcome of a repair.
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
