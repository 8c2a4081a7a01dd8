//! Budgets of the memory of responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::BYTES_PER_PERMIT;

/// Bytes that the responses of one connection, one identity or the whole server may hold.
///
/// Half of them are for the memory that a response cannot do without: a response waits for it before it begins. The
/// other half is for speed: a download that gets none goes on with small chunks. So a client that does not read cannot
/// stop the others, and never has more than the limit.
#[derive(Debug)]
pub struct ResponseBudget {
    pub(super) needed: Arc<Semaphore>,
    pub(super) speed: Arc<Semaphore>,
    /// Permits of each half.
    permits: u32,
    /// Responses that wait for needed memory.
    waiting: AtomicUsize,
}

impl ResponseBudget {
    /// Budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let max_permits = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let permits = u32::try_from(bytes / BYTES_PER_PERMIT / 2).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, max_permits);
        Self {
            needed: Arc::new(Semaphore::new(permits as usize)),
            speed: Arc::new(Semaphore::new(permits as usize)),
            permits,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Counts a response that waits for needed memory until the result is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }

    /// True if responses wait for memory of this budget.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Permits for `bytes`. More than the budget takes the whole budget.
    pub(super) fn permits_for(&self, bytes: u64) -> u32 {
        let permits = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        permits.min(self.permits)
    }
}

/// Response that waits for memory of a budget.
pub(crate) struct Waiting<'a>(&'a ResponseBudget);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
