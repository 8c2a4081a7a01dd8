//! Splits of blobs under way: few at a time, and one for each blob.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitzel_access::ResponseMemory;
use bitzel_cas::error::Error;
use bitzel_proto::{Digest, InstanceName};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Blobs that are cut at the same time. Each takes a processor, and memory for some chunks.
const MAX_CONCURRENT_SPLITS: usize = 2;
/// Time that a call waits for splits of others.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Reserved instance, whose tenant has the blob, and blob of a split.
pub(super) type Key = (InstanceName, Digest);
/// Chunks of a blob once they are known. Locked by the call that cuts it.
type Split = Arc<AsyncMutex<Option<Vec<Digest>>>>;

/// Splits of all callers.
pub(super) struct Splits {
    ongoing: Mutex<HashMap<Key, Split>>,
    permits: Arc<Semaphore>,
}

/// Membership of one call in a split. The last one removes the split.
struct Participant {
    splits: Arc<Splits>,
    key: Key,
    split: Split,
}

impl Default for Splits {
    fn default() -> Self {
        Self {
            ongoing: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_SPLITS)),
        }
    }
}

impl Splits {
    /// Cuts a blob with `cut`, or waits for another call that does so. `memory` reserves what the cut takes, at once.
    ///
    /// `None` if the server has no time or memory for it. A cut goes on when its caller has gone: calls that are given up
    /// could pile up work otherwise, and the next call finds its chunks.
    pub(super) async fn run(
        self: &Arc<Self>,
        key: Key,
        memory: impl FnOnce() -> Option<ResponseMemory>,
        cut: impl Future<Output = Result<Vec<Digest>, Error>> + Send + 'static,
    ) -> Result<Option<Vec<Digest>>, Error> {
        let participant = self.participate(key);
        let split = Arc::clone(&participant.split);
        let admission = async {
            let chunks = split.lock_owned().await;
            if chunks.is_some() {
                return (chunks, None);
            }
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            (chunks, permit.ok())
        };
        let Ok((mut chunks, permit)) = tokio::time::timeout(ADMISSION_TIMEOUT, admission).await else {
            return Ok(None);
        };
        if chunks.is_some() {
            return Ok(chunks.clone());
        }
        let Some(memory) = memory() else {
            return Ok(None);
        };
        let digest = participant.key.1;
        let cutting = tokio::spawn(async move {
            let cut = cut.await?;
            *chunks = Some(cut.clone());
            drop((chunks, permit, memory, participant));
            Ok(Some(cut))
        });
        cutting.await.unwrap_or_else(|error| {
            Err(Error::Io {
                context: format!("the split of {digest} ended early"),
                source: std::io::Error::other(error),
            })
        })
    }

    fn participate(self: &Arc<Self>, key: Key) -> Participant {
        let split = Arc::clone(self.ongoing.lock().entry(key.clone()).or_default());
        Participant {
            splits: Arc::clone(self),
            key,
            split,
        }
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let mut ongoing = self.splits.ongoing.lock();
        // One reference is in the map, one is here.
        if Arc::strong_count(&self.split) == 2 {
            ongoing.remove(&self.key);
        }
    }
}
