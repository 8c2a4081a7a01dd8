//! Readiness of a server in a group.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{BootClock, Clock as _, Time};

/// Time without a leader after which a server is not ready: its calls fail. More than a change of leaders takes.
const MAX_LEADERLESS_TIME: Duration = Duration::from_secs(15);

/// Readiness of a server in a group: it knows a leader, or knew one a short time ago.
#[derive(Debug, Clone, Default)]
pub struct GroupReadiness {
    /// End of the last known lease.
    led_until: Arc<Mutex<Option<Time>>>,
}

impl GroupReadiness {
    /// True if calls find a leader.
    pub fn is_ready(&self) -> bool {
        self.is_ready_at(BootClock.now())
    }

    fn is_ready_at(&self, now: Time) -> bool {
        let led_until = *self.led_until.lock();
        led_until.is_some_and(|until| now < until + MAX_LEADERLESS_TIME)
    }

    /// Takes the time until which a server leads. `None` keeps the last one.
    pub(super) fn led(&self, until: Option<Time>) {
        let mut led_until = self.led_until.lock();
        *led_until = until.or(*led_until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_leader_is_not_ready() {
        let at = |seconds| Time::default() + Duration::from_secs(seconds);
        let readiness = GroupReadiness::default();
        assert!(!readiness.is_ready_at(at(0)), "it has not heard of any");
        readiness.led(Some(at(10)));
        readiness.led(None);
        assert!(readiness.is_ready_at(at(24)));
        assert!(!readiness.is_ready_at(at(25)));
    }
}
