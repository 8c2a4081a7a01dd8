//! Records of one interval, folded into one change for each operation.

use std::collections::BTreeMap;

use prost::Message;
use uuid::Uuid;

use crate::journal::format::{AttemptsRow, OperationRow, UsageRow, encode_outcome};
use crate::operation_queue::Record;

/// Length of the columns at which a batch is written: it must be sent and stored within the time that a write has.
pub(super) const MAX_BATCH_BYTES: usize = 8 << 20;

/// Columns of the statement that writes a batch. The rows of an operation are in one of the three groups.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) new: Rows,
    pub(super) changed: Rows,
    pub(super) deleted: Vec<Uuid>,
    /// Builds that are written, with their rows.
    pub(super) builds: Vec<Uuid>,
    pub(super) build_rows: Vec<Vec<u8>>,
    pub(super) forgotten_builds: Vec<Uuid>,
    pub(super) usage: UsageRows,
}

/// Uses of resources by tasks. A use that is `None` is deleted.
#[derive(Debug, Default)]
pub(super) struct UsageRows {
    pub(super) tasks: Vec<Uuid>,
    pub(super) uses: Vec<Option<Vec<u8>>>,
}

/// Columns of rows that are written. A column that is `None` in a changed row keeps its value.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) ids: Vec<Uuid>,
    pub(super) operations: Vec<Option<Vec<u8>>>,
    pub(super) leases: Vec<Option<i64>>,
    pub(super) workers: Vec<Option<String>>,
    pub(super) proofs: Vec<Option<Vec<u8>>>,
    pub(super) attempts: Vec<Option<Vec<u8>>>,
    pub(super) outcomes: Vec<Option<Vec<u8>>>,
}

/// Change of one operation.
#[derive(Debug, Default)]
struct Change {
    operation: Option<Vec<u8>>,
    lease: Option<i64>,
    worker: Option<String>,
    proof: Option<Vec<u8>>,
    attempts: Option<Vec<u8>>,
    outcome: Option<Vec<u8>>,
    deleted: bool,
}

impl Batch {
    /// Folds the first ones of the records, at least one, until there are `max_records` or [`MAX_BATCH_BYTES`] of them. Returns
    /// their number too. The rows are in the order of their identifiers, which keeps the index in PostgreSQL's memory.
    pub(super) fn fold(records: &[Record], max_records: usize) -> (Self, usize) {
        let mut changes = BTreeMap::<Uuid, Change>::new();
        let mut builds = BTreeMap::<Uuid, Option<&Vec<u8>>>::new();
        let mut usage = BTreeMap::<Uuid, Option<Vec<u8>>>::new();
        let (mut folded, mut bytes) = (0, 0);
        for record in records.iter().take(max_records.max(1)) {
            bytes += match record {
                Record::Learnt { task, task_use } => {
                    let row = task_use
                        .as_ref()
                        .map(|task_use| UsageRow::new(task_use).encode_to_vec());
                    let length = row.as_ref().map_or(0, Vec::len);
                    usage.insert(Uuid::from_u128(task.0), row);
                    length
                }
                Record::Build { build, row } => {
                    builds.insert(*build, Some(row));
                    row.len()
                }
                Record::BuildForgotten { build } => {
                    builds.insert(*build, None);
                    0
                }
                Record::Accepted { operation, .. }
                | Record::Leased { operation, .. }
                | Record::Requeued { operation, .. }
                | Record::Completed { operation, .. }
                | Record::Forgotten { operation } => changes.entry(operation.0).or_default().apply(record),
            };
            folded += 1;
            if bytes >= MAX_BATCH_BYTES {
                break;
            }
        }
        let mut batch = Self::of(changes, builds);
        (batch.usage.tasks, batch.usage.uses) = usage.into_iter().unzip();
        (batch, folded)
    }

    /// Operation or build of a batch with one record, for messages.
    pub(super) fn identifier(&self) -> String {
        let operations = self.new.ids.iter().chain(&self.changed.ids).chain(&self.deleted);
        let builds = self.builds.iter().chain(&self.forgotten_builds);
        operations.chain(builds).map(Uuid::to_string).collect()
    }

    fn of(changes: BTreeMap<Uuid, Change>, builds: BTreeMap<Uuid, Option<&Vec<u8>>>) -> Self {
        let mut batch = Self::default();
        for (id, row) in builds {
            match row {
                Some(row) => {
                    batch.builds.push(id);
                    batch.build_rows.push(row.clone());
                }
                None => batch.forgotten_builds.push(id),
            }
        }
        for (id, change) in changes {
            match change {
                // It came and went between two writes.
                Change {
                    operation: Some(_),
                    deleted: true,
                    ..
                } => {}
                Change { deleted: true, .. } => batch.deleted.push(id),
                Change {
                    operation: Some(_), ..
                } => batch.new.push(id, change),
                Change { operation: None, .. } => batch.changed.push(id, change),
            }
        }
        batch
    }
}

impl Rows {
    fn push(&mut self, id: Uuid, change: Change) {
        self.ids.push(id);
        self.operations.push(change.operation);
        self.leases.push(change.lease);
        self.workers.push(change.worker);
        self.proofs.push(change.proof);
        self.attempts.push(change.attempts);
        self.outcomes.push(change.outcome);
    }
}

impl Change {
    /// Applies a record, and returns the length of the columns that it sets.
    fn apply(&mut self, record: &Record) -> usize {
        match record {
            Record::Accepted { action, .. } => {
                set(&mut self.operation, OperationRow::new(action).encode_to_vec())
            }
            Record::Leased { lease, holder, .. } => {
                self.lease = Some(column(lease.0));
                self.worker = Some((*holder.worker).to_owned());
                holder.worker.len() + set(&mut self.proof, holder.proof.as_bytes().to_vec())
            }
            Record::Requeued { attempts, .. } => {
                let row = AttemptsRow {
                    attempts: attempts.clone(),
                    ..AttemptsRow::default()
                };
                self.lease = Some(0);
                self.worker = Some(String::new());
                self.proof = Some(vec![]);
                set(&mut self.attempts, row.encode_to_vec())
            }
            Record::Completed { outcome, .. } => {
                let encoded = encode_outcome(outcome);
                self.deleted |= encoded.is_none();
                encoded.map_or(0, |encoded| set(&mut self.outcome, encoded))
            }
            Record::Forgotten { .. } => {
                self.deleted = true;
                0
            }
            // They are no changes of operations.
            Record::Learnt { .. } | Record::Build { .. } | Record::BuildForgotten { .. } => 0,
        }
    }
}

fn set(column: &mut Option<Vec<u8>>, value: Vec<u8>) -> usize {
    column.insert(value).len()
}

/// PostgreSQL has no unsigned numbers; the bits are kept.
fn column(lease: u64) -> i64 {
    i64::from_ne_bytes(lease.to_ne_bytes())
}

/// Reverses [`column`].
pub(super) fn lease(column: i64) -> u64 {
    u64::from_ne_bytes(column.to_ne_bytes())
}
