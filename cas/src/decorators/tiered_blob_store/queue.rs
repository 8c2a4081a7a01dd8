//! The order in which blobs are written back. No I/O.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use bitzel_proto::Digest;
use tokio::sync::OwnedSemaphorePermit;

use crate::blob_store::Lease;

/// Blobs up to this size go in batches.
pub(super) const SMALL: u64 = 1 << 20;
/// Bytes and blobs of one batch.
const BATCH_BYTES: u64 = 3 << 20;
const BATCH_BLOBS: usize = 256;

/// The room that one blob takes in the bounded queue; given back when this is dropped. `None` for blobs that were
/// queued before a restart with smaller bounds.
pub(super) type Room = Option<[OwnedSemaphorePermit; 2]>;

struct Queued {
    _room: Room,
    /// Keeps the blob in the fast store.
    _lease: Arc<Lease>,
    /// Whether it was added once more after it was taken.
    again: bool,
}

/// First in, first out, each digest once.
#[derive(Default)]
pub(super) struct Queue {
    order: VecDeque<Digest>,
    /// All that waits or is being written.
    blobs: HashMap<Digest, Queued>,
    bytes: u64,
}

impl Queue {
    /// Adds blobs; those that are in it already give their new room back.
    pub(super) fn add(&mut self, blobs: impl IntoIterator<Item = (Digest, Room)>, lease: Lease) {
        let lease = Arc::new(lease);
        for (digest, room) in blobs {
            match self.blobs.entry(digest) {
                Entry::Occupied(mut queued) => queued.get_mut().again = true,
                Entry::Vacant(vacant) => {
                    vacant.insert(Queued {
                        _room: room,
                        _lease: Arc::clone(&lease),
                        again: false,
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
            let full = batch.len() == BATCH_BLOBS || bytes + size > BATCH_BYTES || size > SMALL;
            if full && !batch.is_empty() {
                break;
            }
            bytes += size;
            if let Some(queued) = self.blobs.get_mut(next) {
                queued.again = false;
            }
            batch.extend(self.order.pop_front());
            if size > SMALL {
                break;
            }
        }
        batch
    }

    /// Of blobs that were taken and found to be gone: those that nobody has added again meanwhile. The others are in
    /// the queue once more.
    pub(super) fn really_gone(&mut self, digests: &[Digest]) -> Vec<Digest> {
        let mut gone = Vec::new();
        for digest in digests {
            if self.blobs.get(digest).is_some_and(|queued| queued.again) {
                self.order.push_back(*digest);
            } else {
                gone.push(*digest);
            }
        }
        gone
    }

    /// Forgets blobs.
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
    fn small_blobs_go_together_and_large_ones_alone_in_their_order() {
        let mut queue = Queue::default();
        let blobs = [
            blob(1, 10),
            blob(2, 2 << 20),
            blob(3, 1 << 20),
            blob(4, 1 << 20),
            blob(5, 1 << 20),
            blob(6, 1),
        ];
        queue.add(blobs.map(|digest| (digest, None)), Lease::default());
        queue.add([(blobs[0], None)], Lease::default());
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
    fn a_blob_that_is_written_again_while_its_loss_is_noticed_is_not_lost() {
        let mut queue = Queue::default();
        let blobs = [blob(1, 10), blob(2, 10)];
        queue.add(blobs.map(|digest| (digest, None)), Lease::default());
        assert_eq!(queue.take(), blobs);
        queue.add([(blobs[1], None)], Lease::default());
        assert_eq!(queue.really_gone(&blobs), blobs[..1]);
        queue.done(&blobs[..1]);
        assert_eq!(queue.take(), blobs[1..]);
    }
}
