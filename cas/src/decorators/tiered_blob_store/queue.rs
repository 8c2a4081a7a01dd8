//! Order in which blobs are written back. No I/O.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use bitzel_proto::Digest;
use tokio::sync::OwnedSemaphorePermit;

use crate::blob_store::Lease;

/// Size in bytes up to which blobs are written in batches.
pub(super) const MAX_BATCHED_BLOB_SIZE: u64 = 1 << 20;
/// Bytes of one batch.
const MAX_BATCH_BYTES: u64 = 3 << 20;
/// Blobs of one batch.
const MAX_BATCH_BLOBS: usize = 256;

/// Permits for the space that one blob takes in the bounded queue, released when they are dropped. `None` for blobs that
/// were queued before a restart with smaller bounds.
pub(super) type QueuePermits = Option<[OwnedSemaphorePermit; 2]>;

struct Queued {
    _permits: QueuePermits,
    /// Protects the blob in the fast store from eviction.
    _lease: Arc<Lease>,
    /// True if it was added again after it was taken.
    added_again: bool,
}

/// First in, first out, each digest once.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Digest>,
    /// The blobs that wait or are being written.
    blobs: HashMap<Digest, Queued>,
    bytes: u64,
}

impl Queue {
    /// Adds blobs; those that are in the queue already release their new permits.
    pub(super) fn add(&mut self, blobs: impl IntoIterator<Item = (Digest, QueuePermits)>, lease: Lease) {
        let lease = Arc::new(lease);
        for (digest, permits) in blobs {
            match self.blobs.entry(digest) {
                Entry::Occupied(mut queued) => queued.get_mut().added_again = true,
                Entry::Vacant(vacant) => {
                    vacant.insert(Queued {
                        _permits: permits,
                        _lease: Arc::clone(&lease),
                        added_again: false,
                    });
                    self.order.push_back(digest);
                    self.bytes += digest.size_bytes();
                }
            }
        }
    }

    /// The next blob that is large, or several small ones. They stay in the queue until they are [`Queue::done`].
    pub(super) fn take(&mut self) -> Vec<Digest> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.order.front() {
            let size = next.size_bytes();
            let full = batch.len() == MAX_BATCH_BLOBS
                || bytes + size > MAX_BATCH_BYTES
                || size > MAX_BATCHED_BLOB_SIZE;
            if full && !batch.is_empty() {
                break;
            }
            bytes += size;
            if let Some(queued) = self.blobs.get_mut(next) {
                queued.added_again = false;
            }
            batch.extend(self.order.pop_front());
            if size > MAX_BATCHED_BLOB_SIZE {
                break;
            }
        }
        batch
    }

    /// Returns those of `digests`, which were taken and found absent, that were not added again meanwhile. Queues the
    /// others again.
    pub(super) fn lost_or_requeued(&mut self, digests: &[Digest]) -> Vec<Digest> {
        let mut lost = Vec::new();
        for digest in digests {
            if self.blobs.get(digest).is_some_and(|queued| queued.added_again) {
                self.order.push_back(*digest);
            } else {
                lost.push(*digest);
            }
        }
        lost
    }

    /// Removes blobs.
    pub(super) fn done(&mut self, digests: &[Digest]) {
        for digest in digests {
            if self.blobs.remove(digest).is_some() {
                self.bytes -= digest.size_bytes();
            }
        }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u8, size: u64) -> Digest {
        Digest::new(bitzel_proto::DigestFunction::Sha256, [number; 32], size)
    }

    #[test]
    fn small_blobs_are_batched_and_large_ones_are_alone() {
        let mut queue = Queue::default();
        let blobs = [
            blob(1, 10),
            blob(2, 2 << 20),
            blob(3, 1 << 20),
            blob(4, 1 << 20),
            blob(5, 1 << 20),
            blob(6, 1),
        ];
        queue.add(blobs.map(|digest| (digest, None)), Lease::none());
        queue.add([(blobs[0], None)], Lease::none());
        assert_eq!(queue.len(), 6);
        assert_eq!(queue.take(), blobs[..1]);
        assert_eq!(queue.take(), blobs[1..2]);
        assert_eq!(queue.take(), blobs[2..5]);
        assert_eq!(queue.take(), blobs[5..]);
        assert_eq!(queue.take(), []);
        assert_eq!(queue.bytes(), blobs.iter().map(Digest::size_bytes).sum::<u64>());
        queue.done(&blobs);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn a_blob_that_is_written_again_in_time_is_not_lost() {
        let mut queue = Queue::default();
        let blobs = [blob(1, 10), blob(2, 10)];
        queue.add(blobs.map(|digest| (digest, None)), Lease::none());
        assert_eq!(queue.take(), blobs);
        queue.add([(blobs[1], None)], Lease::none());
        assert_eq!(queue.lost_or_requeued(&blobs), blobs[..1]);
        queue.done(&blobs[..1]);
        assert_eq!(queue.take(), blobs[1..]);
    }
}
