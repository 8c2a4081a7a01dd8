//! Fetches of the inputs of upcoming Actions, which run beside the executions.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::counter;
use tokio_util::task::AbortOnDropHandle;

use crate::input_prefetcher::{InputPrefetcher, UpcomingAction};

/// Fetch of the inputs of one upcoming Action. When it is dropped, it ends, and the inputs may be evicted.
pub(super) type Prefetch = AbortOnDropHandle<()>;

/// Fetches for the Actions that the scheduler named last.
pub(super) struct Prefetches {
    prefetcher: Arc<dyn InputPrefetcher>,
    running: HashMap<UpcomingAction, Prefetch>,
}

impl Prefetches {
    pub(super) fn new(prefetcher: Arc<dyn InputPrefetcher>) -> Self {
        Self {
            prefetcher,
            running: HashMap::new(),
        }
    }

    /// Starts the fetches for these Actions and ends those for others, which go elsewhere.
    pub(super) fn replace(&mut self, upcoming: Vec<UpcomingAction>) {
        let before = self.running.len();
        self.running.retain(|action, _| upcoming.contains(action));
        count("unused", before - self.running.len());
        for action in upcoming {
            let prefetcher = &self.prefetcher;
            self.running
                .entry(action)
                .or_insert_with_key(|action| AbortOnDropHandle::new(spawn(Arc::clone(prefetcher), action)));
        }
    }

    /// Takes the fetch for an Action that is assigned. It goes on while the result lives.
    pub(super) fn take(&mut self, action: &UpcomingAction) -> Option<Prefetch> {
        let prefetch = self.running.remove(action)?;
        count("used", 1);
        Some(prefetch)
    }
}

fn spawn(prefetcher: Arc<dyn InputPrefetcher>, action: &UpcomingAction) -> tokio::task::JoinHandle<()> {
    let action = action.clone();
    tokio::spawn(async move {
        let _inputs = prefetcher.prefetch(&action).await.inspect_err(|error| {
            // If the Action comes, its execution tells the same.
            tracing::debug!(%error, action = %action.action, "cannot fetch the inputs of an upcoming Action");
        });
        // The inputs stay until the task is aborted.
        std::future::pending::<()>().await;
    })
}

fn count(outcome: &'static str, actions: usize) {
    counter!("bitzel_worker_prefetches_total", "outcome" => outcome).increment(actions as u64);
}
