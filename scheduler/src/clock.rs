//! Source of time, which tests replace.

use std::ops::Add;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

/// Point in time on the clock's own monotonic scale. Only differences and order have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Duration);

impl Time {
    /// Duration since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// A clock that can be waited for.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Present time for durations and deadlines: never goes back, not even when the machine's clock is set.
    fn now(&self) -> Time;

    /// Present time for timestamps that people and clients read.
    fn wall(&self) -> SystemTime;

    /// Returns once [`Clock::now`] is at least `time`.
    async fn sleep_until(&self, time: Time);
}

/// Clocks of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn sleep_until(&self, time: Time) {
        tokio::time::sleep(time.since(self.now())).await;
    }
}
