//! Time limit of the preparation of inputs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::input_root::RunningFetch;

/// Cancels the preparation of inputs with its Action, or after a time. `Action.timeout` bounds the command alone, and a
/// small message can name inputs that take hours.
pub(super) struct InputDeadline {
    action: CancellationToken,
    inputs: CancellationToken,
    time: Duration,
    _fetch: RunningFetch,
    _timer: AbortOnDropHandle<()>,
}

impl InputDeadline {
    /// Starts the time. `fetch` ends with the preparation.
    pub(super) fn start(action: &CancellationToken, time: Duration, fetch: RunningFetch) -> Self {
        let inputs = action.child_token();
        let timer = {
            let inputs = inputs.clone();
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                inputs.cancel();
            })
        };
        Self {
            action: action.clone(),
            inputs,
            time,
            _fetch: fetch,
            _timer: AbortOnDropHandle::new(timer),
        }
    }

    /// The token for the preparation.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.inputs
    }

    /// The outcome of the preparation: the time is the reason of a cancellation that did not come from outside.
    pub(super) fn outcome<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Err(Error::Cancelled) if !self.action.is_cancelled() => Err(Error::InputsTimedOut(self.time)),
            other => other,
        }
    }
}
