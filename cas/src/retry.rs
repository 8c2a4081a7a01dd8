//! Trying again what may work the next time.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use tracing::debug;

use crate::error::Error;
use bitzel_proto::with_causes;

/// Between tries: 0.1 s, then twice as long each time, up to twice that by chance, so that clients that were cut off
/// together do not come back together. Four tries more, about 3 s, bridge a restart; who needs more waits above.
pub(crate) fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(4)
        .with_jitter()
}

/// Pauses without end for a connection that has to come back: 0.1 s, then twice as long each time up to `longest`, with
/// jitter.
pub fn reconnection_pauses(longest: Duration) -> impl Iterator<Item = Duration> + Send + Sync {
    let growing = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build();
    growing.chain(std::iter::repeat(longest))
}

/// Makes a call until it succeeds, fails for good ([`Error::is_transient`]), or has been tried often enough.
pub async fn retried<T, Call: Future<Output = Result<T, Error>>>(
    call: impl FnMut() -> Call,
) -> Result<T, Error> {
    call.retry(pauses())
        .when(Error::is_transient)
        .notify(|error: &Error, pause: Duration| {
            let error = with_causes(error);
            debug!(error, ?pause, "a call to a back end failed and is tried again");
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::BackEndFailure;

    #[tokio::test(start_paused = true)]
    async fn what_is_transient_is_tried_five_times_and_all_else_once() {
        for (failure, tries) in [(BackEndFailure::Unavailable, 5), (BackEndFailure::Denied, 1)] {
            let calls = Cell::new(0);
            let result = retried(async || {
                calls.set(calls.get() + 1);
                Err::<(), _>(Error::back_end("call", failure)("reason"))
            })
            .await;
            assert!(result.is_err());
            assert_eq!(calls.get(), tries);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_counts() {
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
