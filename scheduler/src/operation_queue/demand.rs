//! Demand of an operation on the worker that runs it.

use crate::platform::RequiredProperties;
use crate::resources::Resources;

/// Properties that a worker must offer and resources that it must have free. Operations with the same demand wait in the same
/// queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Demand {
    pub(super) properties: RequiredProperties,
    /// Amounts that the Action states. Only a worker that has them runs it.
    pub(super) stated: Resources,
    /// Amounts that are expected where it states none. An expectation may be wrong, so the largest worker runs it, however
    /// large it is.
    pub(super) expected: Resources,
}

impl Demand {
    /// Demand with rounded amounts, so that there are few different ones.
    pub(super) fn new(properties: RequiredProperties, stated: Resources, expected: Resources) -> Self {
        let unless_stated = |stated: u64, expected: u64| if stated == 0 { expected } else { 0 };
        let expected = Resources {
            memory_bytes: unless_stated(stated.memory_bytes, expected.memory_bytes),
            millicpus: unless_stated(stated.millicpus, expected.millicpus),
            disk_bytes: unless_stated(stated.disk_bytes, expected.disk_bytes),
        };
        Self {
            properties,
            stated,
            expected: expected.rounded_up(),
        }
    }

    /// Amounts that it takes on workers of which the largest has this much.
    pub(super) fn need(&self, largest: &Resources) -> Resources {
        self.stated.larger(&self.expected.smaller(largest))
    }
}
