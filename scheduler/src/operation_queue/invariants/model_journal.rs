//! Journal in the memory of a test.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::tests::success;
use super::super::{
    LeaseHolder, LeaseId, OperationId, QueuedAction, Record, RestoredOperation, RestoredState,
};

/// Journal that keeps the last state of each operation.
#[derive(Default)]
pub(super) struct ModelJournal(BTreeMap<OperationId, Journaled>);

struct Journaled {
    action: Arc<QueuedAction>,
    attempts: Vec<String>,
    lease: Option<(LeaseId, LeaseHolder)>,
    completed: bool,
}

impl ModelJournal {
    pub(super) fn append(&mut self, record: Record) {
        match record {
            Record::Build { .. } | Record::BuildForgotten { .. } => panic!("the queue has no builds"),
            Record::Accepted { operation, action } => {
                let accepted = Journaled {
                    action,
                    attempts: vec![],
                    lease: None,
                    completed: false,
                };
                assert!(self.0.insert(operation, accepted).is_none(), "accepted twice");
            }
            Record::Leased {
                operation,
                lease,
                holder,
            } => self.0.get_mut(&operation).unwrap().lease = Some((lease, holder)),
            Record::Requeued { operation, attempts } => {
                let journaled = self.0.get_mut(&operation).unwrap();
                (journaled.lease, journaled.attempts) = (None, attempts);
            }
            Record::Completed { operation, .. } => self.0.get_mut(&operation).unwrap().completed = true,
            // What is learnt is no part of an operation.
            Record::Learnt { .. } => {}
            Record::Forgotten { operation } => {
                assert!(self.0.remove(&operation).is_some(), "forgotten twice");
            }
        }
    }

    pub(super) fn restored(&self) -> Vec<RestoredOperation> {
        let restored = self.0.iter().map(|(operation, journaled)| RestoredOperation {
            operation: *operation,
            action: (*journaled.action).clone(),
            attempts: journaled.attempts.clone(),
            state: match (&journaled.lease, journaled.completed) {
                (_, true) => RestoredState::Completed(success()),
                (None, false) => RestoredState::Queued,
                (Some((lease, holder)), false) => RestoredState::Leased {
                    lease: *lease,
                    holder: holder.clone(),
                },
            },
        });
        restored.collect()
    }
}
