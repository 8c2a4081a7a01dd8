//! Repetition of failed calls, with back-off.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use bitzel_proto::with_causes;
use tracing::debug;

use crate::error::Error;

/// Pauses between attempts: 0.1 s, then twice as long each time, each up to doubled at random, so that clients that
/// lost a server together do not come back together. Four more attempts, about 3 s, bridge a restart of the server.
/// Callers that must bridge more repeat the whole call.
pub(crate) fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(4)
        .with_jitter()
}

/// Endless pauses for a connection that has to be set up again: 0.1 s, then twice as long each time up to `longest`,
/// with jitter.
pub fn reconnection_pauses(longest: Duration) -> impl Iterator<Item = Duration> + Send + Sync {
    let growing = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build();
    growing.chain(std::iter::repeat(longest))
}

/// Repeats a call until it succeeds, fails permanently (see [`Error::is_transient`]), or four repetitions have failed too.
pub async fn retried<T, Call: Future<Output = Result<T, Error>>>(
    call: impl FnMut() -> Call,
) -> Result<T, Error> {
    call.retry(pauses())
        .when(Error::is_transient)
        .notify(|error: &Error, pause: Duration| {
            let error = with_causes(error);
            debug!(error, ?pause, "a call to a back end failed and is repeated");
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::BackEndFailure;

    #[tokio::test(start_paused = true)]
    async fn only_transient_failures_are_repeated_five_times_in_all() {
        for (failure, attempts) in [(BackEndFailure::Unavailable, 5), (BackEndFailure::Denied, 1)] {
            let calls = Cell::new(0);
            let result = retried(async || {
                calls.set(calls.get() + 1);
                Err::<(), _>(Error::back_end("call", failure)("reason"))
            })
            .await;
            assert!(result.is_err());
            assert_eq!(calls.get(), attempts);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repetition_ends_with_the_first_success() {
        let calls = Cell::new(0);
        let result = retried(async || {
            calls.set(calls.get() + 1);
            match calls.get() {
                3 => Ok("done"),
                _ => Err(Error::back_end("call", BackEndFailure::Unavailable)("reason")),
            }
        })
        .await;
        assert_eq!(result.unwrap(), "done");
    }
}
