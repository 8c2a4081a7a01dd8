//! Records of one interval, folded into one change for each operation.

use std::collections::BTreeMap;

use prost::Message;
use uuid::Uuid;

use crate::journal::format::{AttemptsRow, OperationRow, encode_outcome};
use crate::operation_queue::Record;

/// Columns of the statement that writes a batch. The rows of an operation are in one of the three groups.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) new: Rows,
    pub(super) changed: Rows,
    pub(super) deleted: Vec<Uuid>,
}

/// Columns of rows that are written. A column that is `None` in a changed row keeps its value.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) ids: Vec<Uuid>,
    pub(super) operations: Vec<Option<Vec<u8>>>,
    pub(super) leases: Vec<Option<i64>>,
    pub(super) workers: Vec<Option<String>>,
    pub(super) attempts: Vec<Option<Vec<u8>>>,
    pub(super) outcomes: Vec<Option<Vec<u8>>>,
}

/// Change of one operation.
#[derive(Debug, Default)]
struct Change {
    operation: Option<Vec<u8>>,
    lease: Option<i64>,
    worker: Option<String>,
    attempts: Option<Vec<u8>>,
    outcome: Option<Vec<u8>>,
    deleted: bool,
}

impl Batch {
    /// Folds records. The rows are in the order of their identifiers, which keeps the index in PostgreSQL's memory.
    pub(super) fn fold(records: &[Record]) -> Self {
        let mut changes = BTreeMap::<Uuid, Change>::new();
        for record in records {
            changes.entry(operation(record)).or_default().apply(record);
        }
        let mut batch = Self::default();
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
        self.attempts.push(change.attempts);
        self.outcomes.push(change.outcome);
    }
}

impl Change {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Accepted { action, .. } => {
                self.operation = Some(OperationRow::new(action).encode_to_vec());
            }
            Record::Leased { lease, worker, .. } => {
                self.lease = Some(column(lease.0));
                self.worker = Some((**worker).to_owned());
            }
            Record::Requeued { attempts, .. } => {
                let row = AttemptsRow {
                    attempts: attempts.clone(),
                    ..AttemptsRow::default()
                };
                self.attempts = Some(row.encode_to_vec());
                self.lease = Some(0);
                self.worker = Some(String::new());
            }
            Record::Completed { outcome, .. } => match encode_outcome(outcome) {
                Some(encoded) => self.outcome = Some(encoded),
                None => self.deleted = true,
            },
            Record::Forgotten { .. } => self.deleted = true,
        }
    }
}

/// PostgreSQL has no unsigned numbers; the bits are kept.
fn column(lease: u64) -> i64 {
    i64::from_ne_bytes(lease.to_ne_bytes())
}

/// Reverses [`column`].
pub(super) fn lease(column: i64) -> u64 {
    u64::from_ne_bytes(column.to_ne_bytes())
}

fn operation(record: &Record) -> Uuid {
    match record {
        Record::Accepted { operation, .. }
        | Record::Leased { operation, .. }
        | Record::Requeued { operation, .. }
        | Record::Completed { operation, .. }
        | Record::Forgotten { operation } => operation.0,
    }
}
