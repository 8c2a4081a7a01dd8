//! Time for which a server leads.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::{BootClock, Clock as _, Time};

/// Time for which a server leads: until its lease ends without a renewal, or until a write is refused.
///
/// [`Self::is_valid`] asks the clock each time. So a process that was stopped and goes on shows nothing of a lease that has
/// ended meanwhile, even before any of its tasks has noticed that.
#[derive(Debug)]
pub(super) struct Tenure {
    /// Fencing number.
    pub(super) epoch: u32,
    until: Mutex<Time>,
    ended: CancellationToken,
}

impl Tenure {
    /// Begins a tenure, which ends at `until` unless it is extended.
    pub(super) fn begin(epoch: u32, until: Time) -> Arc<Self> {
        let tenure = Arc::new(Self {
            epoch,
            until: Mutex::new(until),
            ended: CancellationToken::new(),
        });
        tokio::spawn(tenure.clone().end_in_time());
        tenure
    }

    /// Moves the end.
    pub(super) fn extend(&self, until: Time) {
        *self.until.lock() = until;
    }

    /// True if the tenure has not ended.
    pub(super) fn is_valid(&self) -> bool {
        !self.ended.is_cancelled() && BootClock.now() < *self.until.lock()
    }

    /// Token that is cancelled at the end, and by whose cancellation others end the tenure.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    async fn end_in_time(self: Arc<Self>) {
        while self.is_valid() {
            let until = *self.until.lock();
            tokio::select! {
                () = BootClock.sleep_until(until) => {}
                () = self.ended.cancelled() => return,
            }
        }
        self.ended.cancel();
    }
}
