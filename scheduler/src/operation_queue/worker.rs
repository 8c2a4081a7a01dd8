//! A worker of the queue.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::worker::Hello;

use super::ids::{LeaseId, OperationId};
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};

/// Use of a lease.
#[derive(Debug)]
pub(super) enum LeaseUse {
    Operation(OperationId),
    /// No client needs the result any more. The worker has got a Cancel, and has not completed the lease yet.
    Cancelled,
}

impl LeaseUse {
    pub(super) fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Operation(id) => Some(*id),
            Self::Cancelled => None,
        }
    }
}

/// A registered worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Arc<str>,
    pub(super) properties: OfferedProperties,
    pub(super) draining: bool,
    /// End of the pause after it handed a lease back.
    pub(super) paused_until: Option<Time>,
    pub(super) leases: HashMap<LeaseId, LeaseUse>,
    pub(super) slots: usize,
}

impl Worker {
    pub(super) fn new(hello: &Hello) -> Self {
        Self {
            name: hello.worker_name.as_str().into(),
            properties: hello
                .platform
                .as_ref()
                .map(OfferedProperties::new)
                .unwrap_or_default(),
            draining: false,
            paused_until: None,
            leases: HashMap::new(),
            slots: hello.slots as usize,
        }
    }

    /// True if the worker takes another lease now.
    pub(super) fn has_free_slot(&self) -> bool {
        !self.draining && self.paused_until.is_none() && self.leases.len() < self.slots
    }

    pub(super) fn can_run(&self, requirements: &RequiredProperties) -> bool {
        self.has_free_slot() && self.properties.satisfy(requirements)
    }

    pub(super) fn operation(&self, lease: LeaseId) -> Option<OperationId> {
        self.leases.get(&lease)?.operation()
    }
}
