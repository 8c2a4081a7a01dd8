//! Clock that tests set.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;

use super::farm::with_timeout;
use crate::clock::{Clock, Time};

#[derive(Debug)]
pub(super) struct ManualClock {
    now: watch::Sender<Time>,
    /// Time until which the last sleeper sleeps.
    sleeper: watch::Sender<Option<Time>>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self {
            now: watch::Sender::new(Time::default()),
            sleeper: watch::Sender::new(None),
        }
    }
}

impl ManualClock {
    /// Waits until the server waits for the time after `duration`.
    pub(super) async fn awaits(&self, duration: Duration) -> Time {
        let until = self.now() + duration;
        let mut sleeper = self.sleeper.subscribe();
        with_timeout(sleeper.wait_for(|sleeper| *sleeper == Some(until)))
            .await
            .unwrap();
        until
    }

    /// Sets the time after `duration`, when the server waits for it.
    pub(super) async fn pass_once_awaited(&self, duration: Duration) {
        let until = self.awaits(duration).await;
        self.now.send_replace(until);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Time {
        *self.now.borrow()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    async fn sleep_until(&self, time: Time) {
        self.sleeper.send_replace(Some(time));
        let mut now = self.now.subscribe();
        now.wait_for(|now| *now >= time).await.unwrap();
    }
}
