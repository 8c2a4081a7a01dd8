//! Count of the Actions whose inputs are being fetched.

use tokio::sync::watch;

/// Count of the Actions whose inputs are being fetched. Inputs of upcoming Actions give way to them.
#[derive(Debug, Clone)]
pub struct RunningFetches(watch::Sender<usize>);

impl Default for RunningFetches {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

/// One Action in the count, while it lives.
#[derive(Debug)]
pub struct RunningFetch(watch::Sender<usize>);

impl RunningFetches {
    /// Counts an Action.
    pub fn begin(&self) -> RunningFetch {
        self.0.send_modify(|count| *count += 1);
        RunningFetch(self.0.clone())
    }

    /// Waits until there are none.
    pub async fn none(&self) {
        // The sender lives as long as this object, so there is no error.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for RunningFetch {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_last_fetch() {
        let fetches = RunningFetches::default();
        let (one, two) = (fetches.begin(), fetches.begin());
        let none = fetches.none();
        tokio::pin!(none);
        assert!(futures::poll!(none.as_mut()).is_pending());
        drop(one);
        assert!(futures::poll!(none.as_mut()).is_pending());
        drop(two);
        none.await;
    }
}
