//! Protection from eviction.

use std::any::Any;
use std::fmt;

/// Blobs that the store keeps for as long as this lives. Opaque: each store puts in what it needs.
///
/// The default holds nothing.
#[derive(Default)]
pub struct Lease {
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl Lease {
    /// A lease that ends when `guard` is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self {
            guards: vec![Box::new(guard)],
        }
    }

    /// Both leases as one, for decorators with several stores behind them and for holders that add to a lease.
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
