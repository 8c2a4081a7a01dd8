//! Journal in PostgreSQL, which several servers share.
//!
//! A task writes all records that have gathered as one statement, which is one transaction and one round trip. The
//! statement checks that this server still leads, so a deposed leader writes nothing, whatever its clock says. The tables
//! hold the present state of each operation: they are read once, when a server begins to lead, and never polled.

mod batch;
mod config;
mod connector;
mod schema;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_builds::{BuildId, RestoredBuild};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::format::{AttemptsRow, UsageRow, restored_operation};
use super::{Journal, JournalError, RecordNumber, Recovered};
use crate::operation_queue::{Record, TaskName};

pub use config::PostgresqlConfig;
pub(crate) use connector::PostgresqlConnection;
pub use connector::PostgresqlConnector;
pub(super) use schema::SCHEMA_VERSION;
pub(crate) use writer::DURABLE_COMMITS;

use writer::{Writer, stall_timeout};

/// Reads all operations if this server leads: a row for each, or one without an operation if there are none.
const READ: &str = "SELECT id, operation, lease, worker, proof, attempts, outcome \
     FROM bitzel_leader LEFT JOIN bitzel_operations ON true WHERE epoch = $1";

const READ_USAGE: &str = "SELECT task, usage FROM bitzel_usage";
/// Reads all builds if this server leads.
const READ_BUILDS: &str = "SELECT id, build FROM bitzel_leader JOIN bitzel_builds ON true WHERE epoch = $1";

/// Journal of a server that leads. Dropping it loses the records that are not durable yet.
pub struct PostgresqlJournal {
    connector: PostgresqlConnector,
    epoch: u32,
    shared: Arc<Shared>,
    _writer: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    appended: Notify,
    durable: watch::Sender<RecordNumber>,
}

#[derive(Default)]
struct Pending {
    records: Vec<Record>,
    last: RecordNumber,
}

impl PostgresqlJournal {
    /// Creates the journal of `server`, the leader with the fencing number `epoch`, within a tokio runtime. A batch is written when
    /// `commit_interval` has passed since its first record. `deposed` is cancelled when another server leads, or when nothing
    /// could be written for many times of a lease, `lease_time`.
    pub fn new(
        connector: PostgresqlConnector,
        (epoch, server): (u32, Uuid),
        lease_time: Duration,
        commit_interval: Duration,
        deposed: CancellationToken,
    ) -> Self {
        Self::with_writer(Writer {
            connector,
            epoch,
            server,
            commit_interval,
            stall_timeout: stall_timeout(lease_time),
            deposed,
        })
    }

    fn with_writer(writer: Writer) -> Self {
        let shared = Arc::new(Shared::default());
        Self {
            connector: writer.connector.clone(),
            epoch: writer.epoch,
            shared: shared.clone(),
            _writer: AbortOnDropHandle::new(tokio::spawn(writer.run(shared))),
        }
    }
}

#[async_trait]
impl Journal for PostgresqlJournal {
    async fn recover(&self) -> Result<Recovered, JournalError> {
        let connection = self.connector.connect().await?;
        let rows = connection.client.query(READ, &[&i64::from(self.epoch)]).await?;
        if rows.is_empty() {
            return Err(JournalError::Deposed);
        }
        let operations = rows.iter().filter_map(|row| {
            let id: Uuid = row.get::<_, Option<Uuid>>("id")?;
            let attempts: &[u8] = row.get("attempts");
            let attempts = AttemptsRow {
                lease: batch::lease(row.get("lease")),
                worker: row.get("worker"),
                proof: row.get::<_, Option<Vec<u8>>>("proof").unwrap_or_default(),
                ..AttemptsRow::decode(attempts).unwrap_or_default()
            };
            restored_operation(id, row.get("operation"), attempts, row.get("outcome"))
        });
        let usage = connection.client.query(READ_USAGE, &[]).await?;
        let usage = usage.iter().filter_map(|row| {
            let task: Uuid = row.get("task");
            let task_use = UsageRow::decode_use(row.get("usage"))?;
            Some((TaskName(task.as_u128()), task_use))
        });
        let builds = connection
            .client
            .query(READ_BUILDS, &[&i64::from(self.epoch)])
            .await?;
        let builds = builds.iter().map(|row| RestoredBuild {
            build: BuildId(row.get("id")),
            row: row.get("build"),
        });
        Ok(Recovered {
            usage: usage.collect(),
            epoch: self.epoch,
            operations: operations.collect(),
            builds: builds.collect(),
        })
    }

    fn append(&self, records: Vec<Record>) -> RecordNumber {
        let mut pending = self.shared.pending.lock();
        if !records.is_empty() {
            pending.last.0 += records.len() as u64;
            pending.records.extend(records);
            self.shared.appended.notify_one();
        }
        pending.last
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.shared.durable.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests;
