//! Bounds of the reading of input roots.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bitzel_proto::Digest;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Maximum number of trees that are read and decoded at the same time. A tree may have 128 MiB, and takes several times
/// that while it is read. Most trees are known, or small and read in a millisecond.
const MAX_CONCURRENT_READS: usize = 8;

/// Bounds of the reading of input roots: a few at a time, and each root once, because the requests that name the trees are
/// small and no limit of a client counts them.
pub(super) struct TreeReads {
    permits: Arc<Semaphore>,
    roots: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// Turn to read a tree.
pub(super) struct TreeRead {
    _permit: Option<OwnedSemaphorePermit>,
    _turn: OwnedMutexGuard<()>,
}

impl TreeReads {
    pub(super) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            roots: Mutex::default(),
        }
    }

    /// Bounds for another tenant: all have a few reads together, and no tenant waits for a root that another one reads.
    pub(super) fn of_another_tenant(&self) -> Self {
        Self {
            permits: Arc::clone(&self.permits),
            roots: Mutex::default(),
        }
    }

    /// Waits for the turn of a large message, which belongs to no tree.
    pub(super) async fn begin_message(&self) -> Option<OwnedSemaphorePermit> {
        // An error means that the semaphore is closed, which nobody does.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Waits for the turn of this root. Others that wait for it meanwhile have their turn afterwards.
    pub(super) async fn begin(&self, root: Digest) -> TreeRead {
        let turn = self.turn(root).lock_owned().await;
        TreeRead {
            _permit: self.begin_message().await,
            _turn: turn,
        }
    }

    fn turn(&self, root: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut roots = self.roots.lock();
        if let Some(turn) = roots.get(&root).and_then(Weak::upgrade) {
            return turn;
        }
        // Only as many are in use as there are requests under way.
        roots.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        roots.insert(root, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::DigestFunction;
    use futures::FutureExt as _;

    use super::*;

    fn root(index: usize) -> Digest {
        DigestFunction::Sha256.digest(&index.to_be_bytes())
    }

    #[tokio::test]
    async fn f21_reads_each_root_once_and_a_few_at_a_time() {
        let reads = TreeReads::new();
        let mut first: Vec<TreeRead> = vec![];
        for index in 0..MAX_CONCURRENT_READS {
            first.push(reads.begin(root(index)).await);
        }
        assert!(reads.begin(root(0)).now_or_never().is_none(), "it is being read");
        assert!(reads.begin(root(100)).now_or_never().is_none(), "too many");
        first.pop();
        assert!(
            reads.begin(root(0)).now_or_never().is_none(),
            "it is still being read"
        );
        assert!(reads.begin(root(100)).now_or_never().is_some());
        drop(first);
        assert!(reads.begin(root(0)).now_or_never().is_some());
        assert!(
            reads.roots.lock().len() <= 2,
            "turns that nobody needs are forgotten"
        );
    }
}
