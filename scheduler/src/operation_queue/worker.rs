//! A worker of the queue.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::reapi::Platform;

use super::ids::{LeaseHolder, LeaseId, OperationId};
use super::registration::{Registration, Route};
use super::waiting_actions::Charge;
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};

/// A lease of an Action.
#[derive(Debug)]
pub(super) struct Lease {
    /// The operation. `None` if no client needs the result any more: the worker has got a Cancel, and has not completed the
    /// lease yet.
    pub(super) operation: Option<OperationId>,
    /// Charge of the requester for the slot. `None` if nobody requested it on this server.
    pub(super) charge: Option<Charge>,
    /// Time since which the lease has its slot.
    pub(super) since: Time,
}

/// A registered worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) holder: LeaseHolder,
    /// Name of its pool; empty if it has none.
    pub(super) pool: Arc<str>,
    pub(super) platform: Arc<Platform>,
    pub(super) properties: OfferedProperties,
    /// Workers of one class can run the same Actions.
    pub(super) class: RequiredProperties,
    pub(super) route: Route,
    pub(super) draining: bool,
    /// End of the pause after it handed a lease back.
    pub(super) paused_until: Option<Time>,
    /// Leases that it handed back since it completed one.
    pub(super) returned_leases: u32,
    pub(super) leases: HashMap<LeaseId, Lease>,
    pub(super) slots: usize,
}

impl Worker {
    pub(super) fn new(registration: &Registration<'_>) -> Self {
        let hello = registration.hello;
        let platform = hello.platform.as_ref();
        Self {
            holder: registration.holder.clone(),
            pool: hello.pool.as_str().into(),
            platform: Arc::new(platform.cloned().unwrap_or_default()),
            properties: platform.map(OfferedProperties::new).unwrap_or_default(),
            class: platform.map(RequiredProperties::new).unwrap_or_default(),
            route: registration.route,
            draining: hello.draining,
            paused_until: None,
            returned_leases: 0,
            leases: HashMap::new(),
            slots: hello.slots as usize,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.holder.worker
    }

    /// True if the worker takes another lease now.
    pub(super) fn has_free_slot(&self) -> bool {
        !self.draining && self.paused_until.is_none() && self.leases.len() < self.slots
    }

    pub(super) fn operation(&self, lease: LeaseId) -> Option<OperationId> {
        self.leases.get(&lease)?.operation
    }
}
