//! Writing to the slow store later.

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
use super::queue::{Queue, Room, SMALL};
use crate::blob_store::{BlobRange, BlobStore};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::retry::reconnection_pauses;
use bitzel_proto::with_causes;

/// Longest pause between tries to reach the slow store.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The unit in which the queue's bytes are reserved.
const PAGE: u64 = 4096;

/// Bounds and place of a write-back queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBackOptions {
    /// Where the queue is kept on disk: a directory of its own, on the disk of the fast store.
    pub directory: PathBuf,
    /// Blobs that may wait. Writes beyond wait themselves.
    pub max_blobs: usize,
    /// Bytes that may wait; well below the limit of the fast store, which must not evict them. Larger blobs are
    /// written through.
    pub max_bytes: u64,
    /// Batches or large blobs that are written back at the same time.
    pub concurrency: usize,
}

/// What a write-back queue holds and has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteBackStatus {
    /// Blobs that wait.
    pub waiting_blobs: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Blobs that the slow store has taken.
    pub written_blobs: u64,
    /// Blobs that the fast store lost, or the slow one refused for good, before they were written. They were
    /// acknowledged; now they are missing.
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
    /// Locked on the threads for blocking work only.
    journal: Mutex<Journal>,
    blobs: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    work: Notify,
    waiting: watch::Sender<usize>,
    written: AtomicU64,
    lost: AtomicU64,
}

/// Room in the queue for blobs that are about to be written to the fast store.
pub(super) struct Reserved(Vec<(Digest, Room)>);

impl Reserved {
    /// Gives back the room of all other blobs.
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
        if max_blobs == 0 || max_bytes < PAGE || concurrency == 0 {
            return Err(Error::InvalidArgument(format!(
                "a write-back queue needs room for one blob, {PAGE} bytes and one writer at least"
            )));
        }
        let journal = run_blocking(move || Journal::open(&directory)).await?;
        let pages = usize::try_from(max_bytes / PAGE).unwrap_or(usize::MAX);
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
            .map(|digest| (digest, shared.try_room(digest)));
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

    /// Whether writes of this blob go through the queue.
    pub(super) fn takes(&self, digest: Digest) -> bool {
        digest.size_bytes() <= self.max_bytes / PAGE * PAGE && u32::try_from(pages(digest)).is_ok()
    }

    /// Whether a batch of these blobs can be in the queue at the same time.
    pub(super) fn takes_all(&self, digests: &[Digest]) -> bool {
        let pages: u64 = digests.iter().map(|digest| pages(*digest)).sum();
        digests.len() <= self.max_blobs && pages <= self.max_bytes / PAGE && u32::try_from(pages).is_ok()
    }

    /// Waits until there is room for these blobs, which the queue must be able to take.
    pub(super) async fn reserve(&self, digests: impl IntoIterator<Item = Digest>) -> Reserved {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let count = u32::try_from(digests.len()).unwrap_or(u32::MAX);
        let total =
            u32::try_from(digests.iter().map(|digest| pages(*digest)).sum::<u64>()).unwrap_or(u32::MAX);
        // All at once and in one order, so that two batches cannot each hold what the other waits for.
        let blobs = Arc::clone(&self.shared.blobs).acquire_many_owned(count).await;
        let bytes = Arc::clone(&self.shared.pages).acquire_many_owned(total).await;
        let (mut blobs, mut bytes) = (blobs.ok(), bytes.ok());
        let mut split = |digest: Digest| -> Room {
            let blob = blobs.as_mut()?.split(1)?;
            let pages = bytes.as_mut()?.split(usize::try_from(pages(digest)).ok()?)?;
            Some([blob, pages])
        };
        Reserved(
            digests
                .into_iter()
                .map(|digest| (digest, split(digest)))
                .collect(),
        )
    }

    /// Queues blobs that are in the fast store now. They survive the death of the process afterwards.
    pub(super) async fn add(&self, room: Reserved) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let digests: Vec<Digest> = room.0.iter().map(|(digest, _)| *digest).collect();
        let lease = shared.fast.lease(&digests).await?;
        run_blocking(move || {
            let entries: Vec<Entry> = room.0.iter().map(|(digest, _)| Entry::Waits(*digest)).collect();
            let mut journal = shared.journal.lock();
            journal.append(&entries)?;
            // Under the lock of the journal, so that both see the same order of "waits" and "done".
            shared.queue.lock().add(room.0, lease);
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

/// The room of a blob, in pages.
fn pages(digest: Digest) -> u64 {
    digest.size_bytes().div_ceil(PAGE)
}

impl Shared {
    fn try_room(&self, digest: Digest) -> Room {
        let pages = u32::try_from(pages(digest)).ok()?;
        let blob = Arc::clone(&self.blobs).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        Some([blob, bytes])
    }

    /// Tells those who wait for work or for its end.
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

    /// Tries to write blobs back and yields those that are to be tried again, with the reason.
    async fn try_batch(&self, batch: &[Digest]) -> (Outcome, Option<Error>) {
        let mut outcome = Outcome::default();
        let missing = match self.slow.find_missing(batch).await {
            Ok(missing) => missing,
            Err(error) => {
                outcome.again = batch.to_vec();
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
                    outcome.gone.push(digest);
                }
                Err(error) => {
                    outcome.again.push(digest);
                    last_error = Some(error);
                }
            }
        }
        (outcome, last_error)
    }

    async fn copy(&self, digests: &[Digest]) -> Vec<(Digest, Result<(), Error>)> {
        if let [digest] = digests
            && digest.size_bytes() > SMALL
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

    /// Takes blobs off the queue, in memory and on disk.
    async fn done(self: &Arc<Self>, written: Vec<Digest>, gone: Vec<Digest>) {
        let shared = Arc::clone(self);
        run_blocking(move || {
            let mut journal = shared.journal.lock();
            let lost = shared.queue.lock().really_gone(&gone);
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
                    "the write-back queue on disk does not take note of what is done"
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
    gone: Vec<Digest>,
    again: Vec<Digest>,
}

/// Whether trying again cannot help: the fast store no longer has the blob, or not its right bytes.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::NotFound(_) | Error::DigestMismatch { .. })
}

/// Takes batches from the queue and writes them back, for ever. A batch that fails is tried again until it works;
/// meanwhile the queue fills up and writes wait, as they would without a queue.
async fn write_back(shared: Arc<Shared>) {
    loop {
        let mut batch = shared.next().await;
        let mut pauses = reconnection_pauses(LONGEST_PAUSE);
        while !batch.is_empty() {
            let (outcome, error) = shared.try_batch(&batch).await;
            shared.done(outcome.written, outcome.gone).await;
            batch = outcome.again;
            if let Some(error) = error {
                let (blobs, error) = (batch.len(), with_causes(&error));
                warn!(blobs, error, "blobs could not be written back; they stay queued");
                tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            }
        }
    }
}
