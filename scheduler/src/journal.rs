//! Journal of the operation queue: what must survive a restart of the server.
//!
//! The queue itself is in memory and never reads the journal while it runs. Each transition appends records without
//! waiting; they become durable in batches. What a transition shows outside (the name of an operation to its client, an
//! Action to a worker, an acknowledgement) waits until its records are durable. So nothing is promised that a restart
//! could forget.
//!
//! A journal that several servers share, tables in PostgreSQL, has the same trait: [`Recovered::epoch`] is then the fencing
//! number of the server that leads ([`super::leadership`]).

mod builds;
mod config;
mod disk;
mod error;
mod format;
mod memory;
pub(super) mod postgresql;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_builds::RestoredBuild;
use tokio::sync::watch;

use super::operation_queue::{Record, RestoredOperation, TaskName, TaskUse};

pub(super) use builds::BuildRecords;
pub use config::{JournalConfig, JournalMedium};
pub use disk::DiskJournal;
pub use error::JournalError;
pub use memory::MemoryJournal;
pub use postgresql::{PostgresqlConfig, PostgresqlConnector, PostgresqlJournal};

/// Number of a record in the order of appending. Record 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RecordNumber(pub u64);

/// Append-only record of the queue's transitions.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Reads what earlier runs of the server left, and begins a new epoch. Called once, before the first record.
    async fn recover(&self) -> Result<Recovered, JournalError>;

    /// Appends records, in this order, without waiting. Returns the number of the last one.
    fn append(&self, records: Vec<Record>) -> RecordNumber;

    /// Number of the last durable record. It grows as batches are written. If a write fails, the journal tries again, and
    /// the number stays until it has succeeded.
    fn durable(&self) -> watch::Receiver<RecordNumber>;
}

/// Content of a journal at the start of a server.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Number of this run of the server, larger than all before.
    pub epoch: u32,
    /// Operations that had been accepted and not forgotten.
    pub operations: Vec<RestoredOperation>,
    /// Uses of resources by tasks.
    pub usage: Vec<(TaskName, TaskUse)>,
    /// Builds that were handed over and not forgotten.
    pub builds: Vec<RestoredBuild>,
}

/// Waits until all records are durable. Returns false if that takes longer than `timeout`: the disk may be full.
pub(super) async fn flush(journal: &Arc<dyn Journal>, timeout: Duration) -> bool {
    let last = journal.append(vec![]);
    let mut gate = DurabilityGate::new(journal);
    tokio::time::timeout(timeout, gate.wait(last)).await.is_ok()
}

/// Waits until a record is durable.
#[derive(Clone)]
pub(super) struct DurabilityGate {
    durable: watch::Receiver<RecordNumber>,
}

impl DurabilityGate {
    pub(super) fn new(journal: &Arc<dyn Journal>) -> Self {
        Self {
            durable: journal.durable(),
        }
    }

    pub(super) async fn wait(&mut self, number: RecordNumber) {
        // A journal that is gone makes nothing durable any more: what depends on it must not be shown.
        if self.durable.wait_for(|durable| *durable >= number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
