//! Protection from eviction.

use std::any::Any;
use std::fmt;

/// Guard that protects blobs of a store from eviction until it is dropped. Opaque: each store puts in what it needs.
#[derive(Default)]
pub struct Lease {
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl Lease {
    /// A lease that protects nothing, from a store that never evicts or cannot prevent it.
    pub fn none() -> Self {
        Self::default()
    }

    /// A lease that drops `guard` when it ends.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self {
            guards: vec![Box::new(guard)],
        }
    }

    /// Joins two leases, for decorators with several inner stores and for holders that add to a lease.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.guards.extend(other.guards);
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({} guards)", self.guards.len())
    }
}
