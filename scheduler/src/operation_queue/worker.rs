//! A worker of the queue.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::reapi::Platform;

use super::demand::Demand;
use super::ids::{LeaseHolder, LeaseId, OperationId};
use super::registration::{Registration, Route};
use super::waiting_actions::{Charge, Fit};
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};
use crate::resources::Resources;

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
    /// Resources that are kept for it.
    pub(super) resources: Resources,
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
    /// Resources of all its Actions together.
    pub(super) capacity: Resources,
    /// Largest resources of a single Action.
    pub(super) single: Resources,
    /// Resources of the Actions in its slots.
    pub(super) used: Resources,
    /// Operation that it is kept free for.
    pub(super) reserved_for: Option<OperationId>,
}

impl Worker {
    pub(super) fn new(registration: &Registration<'_>) -> Self {
        let hello = registration.hello;
        let platform = hello.platform.as_ref();
        let capacity = Resources::offered(hello.resources.as_ref());
        let action_memory = hello.resources.map_or(0, |offered| offered.action_memory_bytes);
        let mut single = capacity;
        if action_memory > 0 {
            single.memory_bytes = single.memory_bytes.min(action_memory);
        }
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
            capacity,
            single,
            used: Resources::default(),
            reserved_for: None,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.holder.worker
    }

    /// True if the worker takes another lease now.
    pub(super) fn has_free_slot(&self) -> bool {
        !self.draining && self.paused_until.is_none() && self.leases.len() < self.slots
    }

    /// True if any Action that fits may get a free slot now.
    pub(super) fn is_open(&self) -> bool {
        self.has_free_slot() && self.reserved_for.is_none()
    }

    /// True if the worker has the resources that an operation states, used or not.
    pub(super) fn could_run(&self, demand: &Demand) -> bool {
        self.properties.satisfy(&demand.properties) && demand.stated.fits_in(&self.single)
    }

    /// Tells if the worker has these resources, and if they are free.
    pub(super) fn fit(&self, need: &Resources) -> Fit {
        if !need.fits_in(&self.single) {
            Fit::Never
        } else if self.used.plus(need).fits_in(&self.capacity) {
            Fit::Now
        } else {
            Fit::Later
        }
    }

    pub(super) fn operation(&self, lease: LeaseId) -> Option<OperationId> {
        self.leases.get(&lease)?.operation
    }
}
