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

#[cfg(test)]
mod tests {
    use bitzel_proto::google::protobuf::Duration as DurationMessage;

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(10);
    const MAXIMUM: Duration = Duration::from_secs(100);

    fn timeout_of(timeout: Option<(i64, i32)>) -> Result<Duration, String> {
        let timeouts = ExecutionTimeouts {
            default: DEFAULT,
            maximum: MAXIMUM,
        };
        let action = Action {
            timeout: timeout.map(|(seconds, nanos)| DurationMessage { seconds, nanos }),
            ..Action::default()
        };
        timeouts.timeout_of(&action).map_err(|error| error.to_string())
    }

    #[test]
    fn an_action_sets_its_timeout_up_to_the_maximum() {
        assert_eq!(timeout_of(None), Ok(DEFAULT));
        assert_eq!(
            timeout_of(Some((1, 500_000_000))),
            Ok(Duration::from_millis(1500))
        );
        assert_eq!(timeout_of(Some((100, 0))), Ok(MAXIMUM));
    }

    #[test]
    fn refuses_negative_and_too_long_timeouts() {
        for timeout in [(-1, 0), (0, -1)] {
            assert_eq!(
                timeout_of(Some(timeout)),
                Err("Action.timeout is negative".into())
            );
        }
        for timeout in [(100, 1), (i64::MAX, i32::MAX)] {
            let error = timeout_of(Some(timeout)).unwrap_err();
            assert!(error.ends_with("this worker allows at most 100s"), "{error}");
        }
    }
}
