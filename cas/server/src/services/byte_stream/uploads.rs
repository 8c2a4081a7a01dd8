//! Writes under way, so that a client whose connection broke can go on.
//!
//! Every write runs as a task that streams into the store from a channel. The call that feeds the channel may end;
//! task and channel stay in the table under the resource name until the next call takes them up or they grow old.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::error::Error;

/// How long a write without a connection is kept. Clients that try again do so within seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many writes without a connection are kept: each holds a file and room in the store.
const MAX_PARKED: usize = 256;
/// Chunks between the connection and the store.
const CHANNEL: usize = 4;
/// Clients choose the names.
const MAX_NAME: usize = 1024;

/// The table of writes.
pub(super) struct Uploads {
    store: Arc<dyn BlobStore>,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

struct Entry {
    /// Locked by the call that feeds it.
    pipe: Arc<AsyncMutex<Pipe>>,
    /// Uncompressed bytes taken so far.
    committed: AtomicU64,
    last_use: Mutex<Instant>,
}

struct Pipe {
    /// `None` after the end of the blob.
    sender: Option<mpsc::Sender<Bytes>>,
    write: AbortOnDropHandle<Result<(), Error>>,
}

/// Whether a write wants more.
pub(super) enum Progress {
    /// It does.
    More,
    /// The store has the blob from elsewhere.
    AlreadyThere,
}

impl Uploads {
    pub(super) fn new(store: Arc<dyn BlobStore>) -> Self {
        Self {
            store,
            entries: Mutex::default(),
        }
    }

    /// Uncompressed bytes that the write under `name` has taken; `None` when there is none.
    pub(super) fn committed(&self, name: &str) -> Option<u64> {
        let entries = self.entries.lock();
        entries
            .get(name)
            .map(|entry| entry.committed.load(Ordering::Acquire))
    }

    /// Starts a write, or takes up one that stands at `offset`. Offset 0 always starts anew: a client that lost
    /// its state must not be locked out by the remains of its first attempt.
    pub(super) fn open(self: &Arc<Self>, name: &str, digest: Digest, offset: u64) -> Result<Upload, Status> {
        if name.len() > MAX_NAME {
            return Err(Status::invalid_argument(
                "the resource name is longer than 1024 bytes",
            ));
        }
        let mut entries = self.entries.lock();
        make_room(&mut entries);
        let entry = if offset == 0 {
            let entry = Arc::new(self.start(digest));
            entries.insert(name.to_owned(), Arc::clone(&entry));
            entry
        } else {
            let entry = entries.get(name).ok_or_else(|| wrong_offset(offset, 0))?;
            Arc::clone(entry)
        };
        let pipe = Arc::clone(&entry.pipe)
            .try_lock_owned()
            .map_err(|_| Status::aborted(format!("another call is writing {name}")))?;
        let committed = entry.committed.load(Ordering::Acquire);
        if committed != offset {
            return Err(wrong_offset(offset, committed));
        }
        *entry.last_use.lock() = Instant::now();
        Ok(Upload {
            table: Arc::clone(self),
            name: name.to_owned(),
            digest,
            entry,
            pipe,
            is_over: false,
        })
    }

    fn start(&self, digest: Digest) -> Entry {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let store = Arc::clone(&self.store);
        let blob = ReceiverStream::new(receiver).map(Ok).boxed();
        let write = tokio::spawn(async move { store.write(digest, blob).await });
        Entry {
            pipe: Arc::new(AsyncMutex::new(Pipe {
                sender: Some(sender),
                write: AbortOnDropHandle::new(write),
            })),
            committed: AtomicU64::new(0),
            last_use: Mutex::new(Instant::now()),
        }
    }

    fn forget(&self, name: &str, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock();
        if entries
            .get(name)
            .is_some_and(|current| Arc::ptr_eq(current, entry))
        {
            entries.remove(name);
        }
    }
}

/// Drops the oldest of the writes that nobody feeds when there are too many.
fn make_room(entries: &mut HashMap<String, Arc<Entry>>) {
    let mut parked: Vec<(Instant, String)> = entries
        .iter()
        .filter(|(_, entry)| entry.pipe.try_lock().is_ok())
        .map(|(name, entry)| (*entry.last_use.lock(), name.clone()))
        .collect();
    let excess = (parked.len() + 1).saturating_sub(MAX_PARKED);
    parked.sort_unstable();
    for (_, name) in parked.drain(..excess) {
        entries.remove(&name);
    }
}

fn wrong_offset(offset: u64, committed: u64) -> Status {
    Status::invalid_argument(format!(
        "write offset {offset} is not where the write stands, {committed}; ask with QueryWriteStatus, or start at 0"
    ))
}

/// A write in the hands of one call. Dropped without [`Upload::finish`], it stays in the table as it stands.
pub(super) struct Upload {
    table: Arc<Uploads>,
    name: String,
    digest: Digest,
    entry: Arc<Entry>,
    pipe: OwnedMutexGuard<Pipe>,
    /// Whether the table has nothing to keep any more.
    is_over: bool,
}

impl Upload {
    /// Uncompressed bytes taken so far.
    pub(super) fn committed(&self) -> u64 {
        self.entry.committed.load(Ordering::Acquire)
    }

    /// Passes bytes on to the store.
    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<Progress, Error> {
        if chunk.is_empty() {
            return Ok(Progress::More);
        }
        let committed = self.committed() + chunk.len() as u64;
        if committed > self.digest.size_bytes() {
            self.forget();
            return Err(Error::InvalidArgument(format!(
                "the data is more than the {} bytes of {}",
                self.digest.size_bytes(),
                self.digest
            )));
        }
        if let Some(sender) = &self.pipe.sender
            && sender.send(chunk).await.is_ok()
        {
            self.entry.committed.store(committed, Ordering::Release);
            *self.entry.last_use.lock() = Instant::now();
            return Ok(Progress::More);
        }
        // The store has stopped listening: it failed, or it needs no more.
        self.outcome().await?;
        Ok(Progress::AlreadyThere)
    }

    /// Ends the blob and waits until the store has it.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.pipe.sender = None;
        self.outcome().await
    }

    fn forget(&mut self) {
        self.is_over = true;
        self.table.forget(&self.name, &self.entry);
    }

    /// What became of the write, which is over.
    async fn outcome(&mut self) -> Result<(), Error> {
        let outcome = (&mut self.pipe.write).await;
        self.forget();
        outcome.unwrap_or_else(|error| {
            Err(Error::Io {
                context: format!("the write of {} ended early", self.digest),
                source: std::io::Error::other(error),
            })
        })
    }
}

impl Drop for Upload {
    /// Gives the client some time to come back.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Without a runtime there is no server for the client to come back to.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let left_at = Instant::now();
        *self.entry.last_use.lock() = left_at;
        let (table, name, entry) = (
            Arc::clone(&self.table),
            std::mem::take(&mut self.name),
            Arc::clone(&self.entry),
        );
        runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if *entry.last_use.lock() == left_at {
                table.forget(&name, &entry);
            }
        });
    }
}

#[cfg(test)]
mod tests;
