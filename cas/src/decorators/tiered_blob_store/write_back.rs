//! Write-back: asynchronous writes to the slow store.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitzel_proto::Digest;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::journal::{Entry, Journal};
use super::queue::{MAX_BATCHED_BLOB_SIZE, Queue, QueuePermits};
use crate::blob_store::{BlobRange, BlobStore};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::retry::reconnection_pauses;
use bitzel_proto::with_causes;

/// Longest pause between two attempts to reach the slow store.
const MAX_RETRY_PAUSE: Duration = Duration::from_mins(1);
/// Unit in which the bytes of the queue are reserved.
const PAGE_SIZE: u64 = 4096;

/// Bounds and place of a write-back queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBackOptions {
    /// Directory of the queue: one of its own, on the disk of the fast store.
    pub directory: PathBuf,
    /// Blobs that may wait. Further writes wait until there is space.
    pub max_blobs: usize,
    /// Bytes that may wait; well below the limit of the fast store, which must not evict them. Larger blobs are
    /// written through.
    pub max_bytes: u64,
    /// Batches or large blobs that are written back at the same time.
    pub concurrency: usize,
}

/// Counts of a write-back queue since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteBackStatus {
    /// Blobs that wait.
    pub waiting_blobs: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Blobs that the slow store has taken.
    pub written_blobs: u64,
    /// Blobs that the fast store lost, or the slow one refused finally, before they were written. They were acknowledged
    /// and are missing now.
    pub lost_blobs: u64,
}

pub(super) struct WriteBack {
    shared: Arc<Shared>,
    max_bytes: u64,
    max_blobs: usize,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

struct Shared {
    fast: Arc<dyn BlobStore>,
    slow: Arc<dyn BlobStore>,
    queue: Mutex<Queue>,
    /// Locked on threads for blocking work only.
    journal: Mutex<Journal>,
    blobs: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    work: Notify,
    waiting: watch::Sender<usize>,
    written: AtomicU64,
    lost: AtomicU64,
}

/// Space in the queue for blobs that are about to be written to the fast store.
pub(super) struct Reservation(Vec<(Digest, QueuePermits)>);

impl Reservation {
    /// Releases the space of all other blobs.
    pub(super) fn keep(&mut self, digests: &HashSet<Digest>) {
        self.0.retain(|(digest, _)| digests.contains(digest));
    }
}

impl WriteBack {
    pub(super) async fn open(
        fast: Arc<dyn BlobStore>,
        slow: Arc<dyn BlobStore>,
        options: WriteBackOptions,
    ) -> Result<Self, Error> {
        let WriteBackOptions {
            directory,
            max_blobs,
            max_bytes,
            concurrency,
        } = options;
        if max_blobs == 0 || max_bytes < PAGE_SIZE || concurrency == 0 {
            return Err(Error::InvalidArgument(format!(
                "a write-back queue needs room for one blob, {PAGE_SIZE} bytes and one writer at least"
            )));
        }
        let journal = run_blocking(move || Journal::open(&directory)).await?;
        let pages = usize::try_from(max_bytes / PAGE_SIZE).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            fast,
            slow,
            queue: Mutex::default(),
            blobs: Arc::new(Semaphore::new(max_blobs.min(Semaphore::MAX_PERMITS))),
            pages: Arc::new(Semaphore::new(pages.min(Semaphore::MAX_PERMITS))),
            work: Notify::new(),
            waiting: watch::Sender::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            journal: Mutex::new(journal),
        });
        let waiting: Vec<Digest> = shared.journal.lock().waiting().iter().copied().collect();
        let lease = shared.fast.lease(&waiting).await?;
        let queued = waiting
            .into_iter()
            .map(|digest| (digest, shared.try_reserve(digest)));
        shared.queue.lock().add(queued, lease);
        shared.changed();
        let write = |_| AbortOnDropHandle::new(tokio::spawn(write_back(Arc::clone(&shared))));
        let tasks = (0..concurrency).map(write).collect();
        Ok(Self {
            shared,
            max_bytes,
            max_blobs,
            _tasks: tasks,
        })
    }

    /// True if writes of this blob go through the queue.
    pub(super) fn accepts(&self, digest: Digest) -> bool {
        digest.size_bytes() <= self.max_bytes / PAGE_SIZE * PAGE_SIZE && u32::try_from(pages(digest)).is_ok()
    }

    /// True if a batch of these blobs can be in the queue at the same time.
    pub(super) fn accepts_all(&self, digests: &[Digest]) -> bool {
        let pages: u64 = digests.iter().map(|digest| pages(*digest)).sum();
        digests.len() <= self.max_blobs && pages <= self.max_bytes / PAGE_SIZE && u32::try_from(pages).is_ok()
    }

    /// Waits until there is space for these blobs, which the queue must accept.
    pub(super) async fn reserve(&self, digests: impl IntoIterator<Item = Digest>) -> Reservation {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let count = u32::try_from(digests.len()).unwrap_or(u32::MAX);
        let total =
            u32::try_from(digests.iter().map(|digest| pages(*digest)).sum::<u64>()).unwrap_or(u32::MAX);
        // All at once and in one order, so that two batches cannot each hold what the other waits for.
        let blobs = Arc::clone(&self.shared.blobs).acquire_many_owned(count).await;
        let bytes = Arc::clone(&self.shared.pages).acquire_many_owned(total).await;
        let (mut blobs, mut bytes) = (blobs.ok(), bytes.ok());
        let mut split = |digest: Digest| -> QueuePermits {
            let blob = blobs.as_mut()?.split(1)?;
            let pages = bytes.as_mut()?.split(usize::try_from(pages(digest)).ok()?)?;
            Some([blob, pages])
        };
        Reservation(
            digests
                .into_iter()
                .map(|digest| (digest, split(digest)))
                .collect(),
        )
    }

    /// Queues blobs that are in the fast store now. Afterwards they survive the death of the process.
    pub(super) async fn add(&self, Reservation(blobs): Reservation) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let lease = shared.fast.lease(&digests).await?;
        run_blocking(move || {
            let entries: Vec<Entry> = blobs.iter().map(|(digest, _)| Entry::Waits(*digest)).collect();
            let mut journal = shared.journal.lock();
            journal.append(&entries)?;
            // Under the lock of the journal, so that both see the same order of "waits" and "done".
            shared.queue.lock().add(blobs, lease);
            drop(journal);
            shared.changed();
            Ok(())
        })
        .await
    }

    /// Those of `digests` that wait to be written back.
    pub(super) fn waiting(&self, digests: &[Digest]) -> HashSet<Digest> {
        let queue = self.shared.queue.lock();
        digests
            .iter()
            .filter(|digest| queue.contains(digest))
            .copied()
            .collect()
    }

    pub(super) async fn settled(&self) {
        let mut waiting = self.shared.waiting.subscribe();
        // The sender lives as long as `self`.
        let _closed = waiting.wait_for(|waiting| *waiting == 0).await;
    }

    pub(super) fn status(&self) -> WriteBackStatus {
        let queue = self.shared.queue.lock();
        WriteBackStatus {
            waiting_blobs: queue.len(),
            waiting_bytes: queue.bytes(),
            written_blobs: self.shared.written.load(Ordering::Relaxed),
            lost_blobs: self.shared.lost.load(Ordering::Relaxed),
        }
    }
}

/// The space of a blob, in pages.
fn pages(digest: Digest) -> u64 {
    digest.size_bytes().div_ceil(PAGE_SIZE)
}

impl Shared {
    fn try_reserve(&self, digest: Digest) -> QueuePermits {
        let pages = u32::try_from(pages(digest)).ok()?;
        let blob = Arc::clone(&self.blobs).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        Some([blob, bytes])
    }

    /// Wakes the tasks that wait for work or for its end.
    fn changed(&self) {
        let (blobs, bytes) = {
            let queue = self.queue.lock();
            (queue.len(), queue.bytes())
        };
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
        {
            metrics::gauge!("bitzel_write_back_waiting_blobs").set(blobs as f64);
            metrics::gauge!("bitzel_write_back_waiting_bytes").set(bytes as f64);
        }
        self.waiting.send_replace(blobs);
        self.work.notify_waiters();
    }

    fn count(&self, written: &[Digest], lost: &[Digest]) {
        let (written, lost) = (written.len() as u64, lost.len() as u64);
        self.written.fetch_add(written, Ordering::Relaxed);
        self.lost.fetch_add(lost, Ordering::Relaxed);
        metrics::counter!("bitzel_write_back_blobs_total", "outcome" => "written").increment(written);
        metrics::counter!("bitzel_write_back_blobs_total", "outcome" => "lost").increment(lost);
    }

    async fn next(&self) -> Vec<Digest> {
        loop {
            let notified = self.work.notified();
            let batch = self.queue.lock().take();
            if !batch.is_empty() {
                return batch;
            }
            notified.await;
        }
    }

    /// Tries to write blobs back and returns their outcome, with the reason for those that are to be retried.
    async fn try_batch(&self, batch: &[Digest]) -> (Outcome, Option<Error>) {
        let mut outcome = Outcome::default();
        let missing = match self.slow.find_missing(batch).await {
            Ok(missing) => missing,
            Err(error) => {
                outcome.retried = batch.to_vec();
                return (outcome, Some(error));
            }
        };
        let absent: HashSet<&Digest> = missing.iter().collect();
        outcome.written = batch
            .iter()
            .filter(|digest| !absent.contains(digest))
            .copied()
            .collect();
        let mut last_error = None;
        for (digest, result) in self.copy(&missing).await {
            match result {
                Ok(()) => outcome.written.push(digest),
                Err(error) if is_final(&error) => {
                    let error = with_causes(&error);
                    warn!(%digest, error, "a blob cannot be written back");
                    outcome.lost.push(digest);
                }
                Err(error) => {
                    outcome.retried.push(digest);
                    last_error = Some(error);
                }
            }
        }
        (outcome, last_error)
    }

    async fn copy(&self, digests: &[Digest]) -> Vec<(Digest, Result<(), Error>)> {
        if let [digest] = digests
            && digest.size_bytes() > MAX_BATCHED_BLOB_SIZE
        {
            let copied = match self.fast.read(*digest, BlobRange::default()).await {
                Ok(blob) => self.slow.write(*digest, blob).await,
                Err(error) => Err(error),
            };
            return vec![(*digest, copied)];
        }
        let mut results = Vec::new();
        let mut blobs = Vec::new();
        for (digest, blob) in digests.iter().zip(self.fast.read_batch(digests).await) {
            match blob {
                Ok(blob) => blobs.push((*digest, blob)),
                Err(error) => results.push((*digest, Err(error))),
            }
        }
        let read: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        results.extend(read.into_iter().zip(self.slow.write_batch(blobs).await));
        results
    }

    /// Removes blobs from the queue, in memory and on disk.
    async fn done(self: &Arc<Self>, written: Vec<Digest>, lost: Vec<Digest>) {
        let shared = Arc::clone(self);
        run_blocking(move || {
            let mut journal = shared.journal.lock();
            let lost = shared.queue.lock().lost_or_requeued(&lost);
            for digest in &lost {
                error!(%digest, "a blob that was acknowledged is lost: it could not be written back");
            }
            shared.count(&written, &lost);
            let digests = [written, lost].concat();
            let entries: Vec<Entry> = digests.iter().copied().map(Entry::Done).collect();
            if let Err(error) = journal.append(&entries) {
                // The next start writes these blobs back once more, which does no harm.
                let error = with_causes(&error);
                warn!(
                    error,
                    "the journal of the write-back queue could not be written; blobs that are written already will be \
                     written once more after a restart"
                );
            }
            shared.queue.lock().done(&digests);
            drop(journal);
            shared.changed();
        })
        .await;
    }
}

#[derive(Default)]
struct Outcome {
    written: Vec<Digest>,
    lost: Vec<Digest>,
    retried: Vec<Digest>,
}

/// True if a retry cannot help: the fast store has lost the blob, or has other bytes in its place.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::NotFound(_) | Error::DigestMismatch { .. })
}

/// Takes batches from the queue and writes them back, without end. A batch that fails is retried until it succeeds;
/// meanwhile the queue fills up and writes wait, as they would without a queue.
async fn write_back(shared: Arc<Shared>) {
    loop {
        let mut batch = shared.next().await;
        let mut pauses = reconnection_pauses(MAX_RETRY_PAUSE);
        while !batch.is_empty() {
            let (outcome, error) = shared.try_batch(&batch).await;
            shared.done(outcome.written, outcome.lost).await;
            batch = outcome.retried;
            if let Some(error) = error {
                let (blobs, error) = (batch.len(), with_causes(&error));
                warn!(blobs, error, "blobs could not be written back; they stay queued");
                tokio::time::sleep(pauses.next().unwrap_or(MAX_RETRY_PAUSE)).await;
            }
        }
    }
}
