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

/// Clocks of the machine. Its time for durations goes on while the machine sleeps, which matters for leases that others
/// count on as well.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

#[async_trait]
impl Clock for BootClock {
    fn now(&self) -> Time {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Both are positive: the clock begins with 0, and nanoseconds are less than a second.
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Time(
            Duration::from_secs(seconds)
                + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default()),
        )
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn sleep_until(&self, time: Time) {
        loop {
            let rest = time.since(self.now());
            if rest.is_zero() {
                return;
            }
            // tokio's clock stands still while the machine sleeps, so the rest is measured again.
            tokio::time::sleep(rest).await;
        }
    }
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
