//! Unfinished writes, which a client can resume after its connection broke.
//!
//! Every write runs as a background job that streams from a channel into the store. When the call that feeds the channel
//! ends, job and channel stay in the table under the resource name until another call resumes them or they expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitzel_access::HeldMessage;
use bitzel_cas::error::Error;
use bitzel_cas::instance_blob_stores::InstanceBlobStores;
use bitzel_proto::{Digest, ResourceName};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::upload_shares::UploadShare;

/// Time for which a write without a connection is kept. Clients that retry do so within seconds.
const PARKED_WRITE_LIFETIME: Duration = Duration::from_mins(2);
/// Writes without a connection that are kept: each holds a file and reserved space in the store.
const MAX_PARKED_WRITES: usize = 256;
/// Chunks that are queued between the connection and the store. One that is larger than [`SMALL_CHUNK_BYTES`] enters only
/// the empty queue, so the queue holds one message and three small chunks at most.
const MAX_QUEUED_CHUNKS: usize = 4;
/// Size of chunks that may wait in the queue beside others: the pieces of a decompression.
const SMALL_CHUNK_BYTES: usize = 128 << 10;
/// Longest resource name: clients choose the names.
const MAX_NAME_BYTES: usize = 1024;

/// Table of unfinished writes by resource name.
pub(super) struct Uploads {
    stores: InstanceBlobStores,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

/// One unfinished write.
struct Entry {
    /// Locked by the call that feeds the write.
    pipe: Arc<AsyncMutex<Pipe>>,
    /// Uncompressed bytes that were passed to the store.
    committed: AtomicU64,
    last_use: Mutex<Instant>,
}

/// Channel into the store, and the job at its end.
struct Pipe {
    /// `None` after the end of the blob.
    sender: Option<mpsc::Sender<QueuedChunk>>,
    write: AbortOnDropHandle<Result<(), Error>>,
    share: UploadShare,
}

/// Chunk on its way to the store. The memory of its message stays reserved until the store asks for the next chunk, so a
/// write that waits for another writer of the blob keeps nothing uncounted.
struct QueuedChunk {
    data: Bytes,
    memory: Option<HeldMessage>,
}

/// State of a write after a chunk.
pub(super) enum Progress {
    /// The write takes more data.
    Continue,
    /// The store has got the blob from another write, and needs no more data.
    BlobExists,
}

impl Uploads {
    pub(super) fn new(stores: InstanceBlobStores) -> Self {
        Self {
            stores,
            entries: Mutex::default(),
        }
    }

    /// Uncompressed bytes of the write under `name`; `None` if there is no such write.
    pub(super) fn committed(&self, name: &str) -> Option<u64> {
        let entries = self.entries.lock();
        entries
            .get(name)
            .map(|entry| entry.committed.load(Ordering::Acquire))
    }

    /// Starts a write of `resource`, or resumes one at `offset`. Offset 0 always starts a new write: a client that lost its state must
    /// not be locked out by its first attempt. A new write counts in `share` until it ends or is forgotten.
    ///
    /// The name holds the instance, so only that instance resumes the write.
    pub(super) fn open(
        self: &Arc<Self>,
        name: &str,
        resource: &ResourceName,
        offset: u64,
        share: UploadShare,
    ) -> Result<Upload, Status> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Status::invalid_argument(
                "the resource name is longer than 1024 bytes",
            ));
        }
        let mut entries = self.entries.lock();
        drop_oldest_parked(&mut entries);
        let entry = if offset == 0 {
            let entry = Arc::new(self.start(resource, share));
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
            digest: resource.digest,
            entry,
            pipe,
            is_over: false,
        })
    }

    fn start(&self, resource: &ResourceName, share: UploadShare) -> Entry {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
        let (store, digest) = (self.stores.store(&resource.instance), resource.digest);
        let blob = futures::stream::unfold((receiver, None), |(mut receiver, stored)| async move {
            drop(stored);
            let QueuedChunk { data, memory } = receiver.recv().await?;
            Some((Ok(data), (receiver, memory)))
        })
        .boxed();
        let write = tokio::spawn(async move { store.write(digest, blob).await });
        Entry {
            pipe: Arc::new(AsyncMutex::new(Pipe {
                sender: Some(sender),
                write: AbortOnDropHandle::new(write),
                share,
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

/// Drops the oldest writes without a connection if there are too many.
fn drop_oldest_parked(entries: &mut HashMap<String, Arc<Entry>>) {
    let mut parked: Vec<(Instant, String)> = entries
        .iter()
        .filter(|(_, entry)| entry.pipe.try_lock().is_ok())
        .map(|(name, entry)| (*entry.last_use.lock(), name.clone()))
        .collect();
    let excess = (parked.len() + 1).saturating_sub(MAX_PARKED_WRITES);
    parked.sort_unstable();
    for (_, name) in parked.drain(..excess) {
        entries.remove(&name);
    }
}

fn wrong_offset(offset: u64, committed: u64) -> Status {
    Status::invalid_argument(format!(
        "write offset {offset} is not {committed}, which comes next; ask with QueryWriteStatus, or start at 0"
    ))
}

/// Write that one call feeds. If it is dropped without [`Upload::finish`], it stays in the table to be resumed.
pub(super) struct Upload {
    table: Arc<Uploads>,
    name: String,
    digest: Digest,
    entry: Arc<Entry>,
    pipe: OwnedMutexGuard<Pipe>,
    /// True if there is nothing left to resume.
    is_over: bool,
}

impl Upload {
    /// Uncompressed bytes that were passed to the store.
    pub(super) fn committed(&self) -> u64 {
        self.entry.committed.load(Ordering::Acquire)
    }

    /// Passes bytes on to the store, with the memory of their message.
    pub(super) async fn push(&mut self, data: Bytes, memory: Option<HeldMessage>) -> Result<Progress, Error> {
        if data.is_empty() {
            return Ok(Progress::Continue);
        }
        let committed = self.committed() + data.len() as u64;
        if committed > self.digest.size_bytes() {
            self.forget();
            return Err(Error::InvalidArgument(format!(
                "the data is more than the {} bytes of {}",
                self.digest.size_bytes(),
                self.digest
            )));
        }
        self.pipe.share.grow(data.len() as u64)?;
        let slots = if data.len() > SMALL_CHUNK_BYTES {
            MAX_QUEUED_CHUNKS
        } else {
            1
        };
        if let Some(sender) = &self.pipe.sender
            && let Ok(mut slots) = sender.reserve_many(slots).await
            && let Some(slot) = slots.next()
        {
            slot.send(QueuedChunk { data, memory });
            drop(slots);
            self.entry.committed.store(committed, Ordering::Release);
            *self.entry.last_use.lock() = Instant::now();
            return Ok(Progress::Continue);
        }
        // The store takes no more data: it failed, or it needs none.
        self.outcome().await?;
        Ok(Progress::BlobExists)
    }

    /// Ends the blob and waits until the store has it.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.pipe.sender = None;
        self.outcome().await
    }

    /// Removes the write from the table: nothing is left to resume.
    pub(super) fn forget(&mut self) {
        self.is_over = true;
        self.table.forget(&self.name, &self.entry);
    }

    /// Outcome of the write, which has ended.
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
    /// Gives the client some time to resume the write.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Without a runtime there is no server that could resume it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let parked_at = Instant::now();
        *self.entry.last_use.lock() = parked_at;
        let (table, name, entry) = (
            Arc::clone(&self.table),
            std::mem::take(&mut self.name),
            Arc::clone(&self.entry),
        );
        runtime.spawn(async move {
            tokio::time::sleep(PARKED_WRITE_LIFETIME).await;
            if *entry.last_use.lock() == parked_at {
                table.forget(&name, &entry);
            }
        });
    }
}

#[cfg(test)]
mod tests;
