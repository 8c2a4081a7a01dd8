//! Where time comes from, so that tests decide what time it is.

use std::ops::Add;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

/// A moment on the clock's own monotonic scale. Only differences and order mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Duration);

impl Time {
    /// The moment `elapsed` after the clock's start.
    pub fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after `earlier` this is; zero when it is not.
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

/// The time, and waiting for it.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Now, for durations and deadlines: never goes back, not even when somebody sets the machine's clock.
    fn now(&self) -> Time;

    /// Now, for timestamps that people and clients read.
    fn wall(&self) -> SystemTime;

    /// Returns once [`Clock::now`] is at least `time`.
    async fn sleep_until(&self, time: Time);
}

/// The machine's clocks.
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
