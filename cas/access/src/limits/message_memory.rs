//! Memory of the request message that a service processes.

use std::sync::Arc;

use http::Extensions;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// Reservation of the message that is arriving or being processed, an extension of its request. It is released when the
/// service asks for the next message, unless the service has taken it.
#[derive(Debug, Clone, Default)]
pub struct MessageMemory(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

/// Memory of a message that outlives its processing, for example in a queue. It is released when this is dropped.
#[derive(Debug)]
pub struct HeldMessage {
    _permit: OwnedSemaphorePermit,
}

impl MessageMemory {
    /// Takes the reservation of the last message. `None` without limits, and if it is taken already.
    pub fn take(request: &Extensions) -> Option<HeldMessage> {
        let Self(message) = request.get()?;
        let permit = message.lock().take()?;
        Some(HeldMessage { _permit: permit })
    }

    /// Adds permits to the reservation.
    pub(super) fn add(&self, permit: OwnedSemaphorePermit) {
        let mut message = self.0.lock();
        match message.as_mut() {
            Some(held) => held.merge(permit),
            None => *message = Some(permit),
        }
    }

    /// Permits that are reserved.
    pub(super) fn held(&self) -> u32 {
        let message = self.0.lock();
        let permits = message.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        u32::try_from(permits).unwrap_or(u32::MAX)
    }

    pub(super) fn release(&self) {
        *self.0.lock() = None;
    }
}
