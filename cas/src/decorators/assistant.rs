//! How much to expect of a remote cache: help where it can, and no harm where it cannot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::Error;
use bitzel_proto::with_causes;

/// A remote that has not begun to answer by then does not help any more.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a failure the remote is left alone for that long: a build of thousands of tasks does not wait for each.
const PAUSE: Duration = Duration::from_secs(30);

/// Keeps the failures of a remote cache away from what it helps. The first one is told as a warning.
#[derive(Debug)]
pub struct Assistant {
    name: String,
    started: Instant,
    /// Until when it is left alone, in milliseconds since `started`.
    paused_until: AtomicU64,
    has_warned: AtomicBool,
}

impl Assistant {
    /// For the remote that people know as `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Asks the remote, unless it has just failed. `None` when there is no answer, for whatever reason.
    pub(crate) async fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<T> {
        if self.milliseconds() < self.paused_until.load(Ordering::Relaxed) {
            return None;
        }
        match timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(Error::NotFound(_))) => None,
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                self.failed(&Error::InvalidArgument(format!("no answer within {PATIENCE:?}")));
                None
            }
        }
    }

    /// Notes a failure.
    pub(crate) fn failed(&self, error: &Error) {
        let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
        self.paused_until
            .store(self.milliseconds() + pause, Ordering::Relaxed);
        let (cache, reason) = (&self.name, with_causes(error));
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(cache, reason, "the remote cache failed again");
        } else {
            tracing::warn!(
                cache,
                reason,
                "the remote cache does not help; the build goes on without it"
            );
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
