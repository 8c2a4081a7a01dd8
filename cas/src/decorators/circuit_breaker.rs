//! Stops using a slow or failing remote cache.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bitzel_proto::with_causes;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::notice::NOTICE;

/// Time until a remote that has not begun to answer counts as failed: an answer after it saves nothing.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time without calls after a failure: a build of thousands of tasks does not wait for each.
const OPEN_PERIOD: Duration = Duration::from_secs(30);

/// Circuit breaker for the calls to one remote cache. Opens for a while with each failure, and reports the first one
/// as a warning.
#[derive(Debug)]
pub struct CircuitBreaker {
    name: String,
    started: Instant,
    /// End of the period without calls, in milliseconds since `started`.
    open_until: AtomicU64,
    has_warned: AtomicBool,
}

impl CircuitBreaker {
    /// A closed circuit breaker for the remote cache that messages call `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            started: Instant::now(),
            open_until: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Makes a call, unless the circuit breaker is open. `None` if there is no answer, for whatever reason.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<T> {
        if self.milliseconds() < self.open_until.load(Ordering::Relaxed) {
            return None;
        }
        match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(Error::NotFound(_))) => None,
            Ok(Err(error)) => {
                self.record_failure(&error);
                None
            }
            Err(_) => {
                let error = Error::InvalidArgument(format!("no answer within {CALL_TIMEOUT:?}"));
                self.record_failure(&error);
                None
            }
        }
    }

    /// Opens the circuit breaker after a failure outside of [`CircuitBreaker::call`].
    pub(crate) fn record_failure(&self, error: &Error) {
        let period = u64::try_from(OPEN_PERIOD.as_millis()).unwrap_or(u64::MAX);
        self.open_until
            .store(self.milliseconds() + period, Ordering::Relaxed);
        let (cache, reason) = (&self.name, with_causes(error));
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(cache, reason, "the remote cache failed again");
        } else {
            tracing::warn!(
                target: NOTICE,
                cache,
                reason,
                "the remote cache failed; the build continues without it and tries it again every 30 s"
            );
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
