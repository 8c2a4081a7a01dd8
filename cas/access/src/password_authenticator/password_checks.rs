//! Checks of passwords under way: few at a time, a limited number for each address, and one for each password.
//!
//! Nobody has authenticated yet, so all of this is work for strangers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::authenticator::Refusal;

/// Checks at the same time, so that guessing takes no more than two processors.
const MAX_CONCURRENT_CHECKS: usize = 2;
/// Checks of one address that run or wait: a few seconds of work. Clients of one address that use one password share a
/// check.
const MAX_CHECKS_PER_ADDRESS: usize = 16;

/// Outcome that all callers with the same name and password wait for.
type Check = Shared<BoxFuture<'static, bool>>;

/// Checks that run or wait.
#[derive(Debug)]
pub(super) struct PasswordChecks {
    permits: Arc<Semaphore>,
    ongoing: Mutex<Ongoing>,
}

#[derive(Debug, Default)]
struct Ongoing {
    /// Checks by the fingerprint of name and password.
    checks: HashMap<Vec<u8>, Check>,
    by_address: HashMap<Option<IpAddr>, usize>,
}

impl Default for PasswordChecks {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_CHECKS)),
            ongoing: Mutex::default(),
        }
    }
}

impl PasswordChecks {
    /// Runs `verify` on a blocking thread, or waits for the check with this fingerprint that is under way.
    ///
    /// A check goes on when its caller has gone, and counts until its thread is free: a thread cannot be stopped.
    pub(super) async fn run(
        self: &Arc<Self>,
        fingerprint: Vec<u8>,
        address: Option<IpAddr>,
        verify: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, Refusal> {
        let check = self.join(fingerprint, address, verify)?;
        Ok(check.await)
    }

    fn join(
        self: &Arc<Self>,
        fingerprint: Vec<u8>,
        address: Option<IpAddr>,
        verify: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Check, Refusal> {
        let mut ongoing = self.ongoing.lock();
        if let Some(check) = ongoing.checks.get(&fingerprint) {
            return Ok(check.clone());
        }
        let of_address = ongoing.by_address.entry(address).or_default();
        if *of_address >= MAX_CHECKS_PER_ADDRESS {
            return Err(Refusal::Unavailable(format!(
                "{MAX_CHECKS_PER_ADDRESS} passwords from this address are being checked; try again in some seconds"
            )));
        }
        *of_address += 1;
        let (checks, key) = (Arc::clone(self), fingerprint.clone());
        let task = tokio::spawn(async move {
            let permit = Arc::clone(&checks.permits).acquire_owned().await;
            let verified = tokio::task::spawn_blocking(verify).await;
            drop(permit);
            checks.end(&key, address);
            verified.unwrap_or(false)
        });
        let check = task.map(|verified| verified.unwrap_or(false)).boxed().shared();
        ongoing.checks.insert(fingerprint, check.clone());
        Ok(check)
    }

    fn end(&self, fingerprint: &[u8], address: Option<IpAddr>) {
        let mut ongoing = self.ongoing.lock();
        ongoing.checks.remove(fingerprint);
        if let Some(of_address) = ongoing.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                ongoing.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
