//! Timeouts of commands.

use std::time::Duration;

use bitzel_proto::reapi::Action;

use crate::error::Error;

/// The timeouts that a worker allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExecutionTimeouts {
    /// Timeout of an Action that sets none.
    pub default: Duration,
    /// Longest timeout that an Action may set.
    pub maximum: Duration,
}

impl ExecutionTimeouts {
    /// The timeout of an Action. Refuses one that is negative or too long.
    pub(super) fn timeout_of(self, action: &Action) -> Result<Duration, Error> {
        let Some(timeout) = &action.timeout else {
            return Ok(self.default);
        };
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(timeout.seconds), u32::try_from(timeout.nanos)) else {
            return Err(Error::InvalidAction("Action.timeout is negative".into()));
        };
        // Saturates instead of overflowing: such a timeout is beyond the maximum.
        let timeout = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
        if timeout > self.maximum {
            let maximum = self.maximum;
            return Err(Error::InvalidAction(format!(
                "Action.timeout is {timeout:?}, but this worker allows at most {maximum:?}"
            )));
        }
        Ok(timeout)
    }
}
