//! One worker.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::worker::Hello;

use super::operation::OperationId;
use crate::platform::{Offer, Requirements};

/// A worker's registration. A worker that comes back is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(super) u64);

/// A slot of a worker, taken by one attempt to run an Action. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// What a lease is for.
#[derive(Debug)]
pub(super) enum Leased {
    Operation(OperationId),
    /// Nobody wants the result any more; the worker has been told and has not answered yet.
    Cancelled,
}

impl Leased {
    pub(super) fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Operation(id) => Some(*id),
            Self::Cancelled => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Arc<str>,
    pub(super) offer: Offer,
    pub(super) draining: bool,
    pub(super) leases: HashMap<LeaseId, Leased>,
    pub(super) slots: usize,
}

impl Worker {
    pub(super) fn new(hello: &Hello) -> Self {
        Self {
            name: hello.worker_name.as_str().into(),
            offer: hello.platform.as_ref().map(Offer::new).unwrap_or_default(),
            draining: false,
            leases: HashMap::new(),
            slots: hello.slots as usize,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.draining && self.leases.len() < self.slots
    }

    pub(super) fn has_room_for(&self, requirements: &Requirements) -> bool {
        self.has_room() && self.offer.meets(requirements)
    }

    pub(super) fn operation(&self, lease: LeaseId) -> Option<OperationId> {
        self.leases.get(&lease)?.operation()
    }
}
