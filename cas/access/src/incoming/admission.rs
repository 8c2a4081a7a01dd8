//! Admission of connections: how many there may be, of one address and in all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection_state::ConnectionState;
use crate::limits::Limits;

/// Counts the connections of one listener, and those that have not authenticated.
pub(super) struct Admission {
    limits: Limits,
    free: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    unauthenticated: Arc<AtomicUsize>,
    /// Connections from the oldest on, to find one to close. Those that have authenticated or ended are passed over.
    newcomers: VecDeque<Weak<ConnectionState>>,
}

/// Place of a connection. Free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Limit that a connection was beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Server,
    Address,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            free: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            by_address: Arc::default(),
            unauthenticated: Arc::default(),
            newcomers: VecDeque::new(),
        }
    }

    /// Admits a connection. If too many have not authenticated, the one that has taken longest is closed: a client needs
    /// a moment to authenticate, so whoever only connects has to be faster than all others together.
    pub(super) fn admit(&mut self, address: IpAddr) -> Result<Arc<ConnectionState>, Full> {
        let address = counted_address(address);
        if self.connections_of(address) >= self.limits.connections_per_address {
            return Err(Full::Address);
        }
        self.crowd_out();
        let permit = Arc::clone(&self.free).try_acquire_owned();
        let permit = permit.map_err(|_| Full::Server)?;
        *self.by_address.lock().entry(address).or_default() += 1;
        let place = Place {
            _permit: permit,
            address,
            by_address: Arc::clone(&self.by_address),
        };
        let unauthenticated = Arc::clone(&self.unauthenticated);
        let state = Arc::new(ConnectionState::new(&self.limits, place, unauthenticated));
        self.newcomers.push_back(Arc::downgrade(&state));
        Ok(state)
    }

    fn connections_of(&self, address: IpAddr) -> usize {
        self.by_address.lock().get(&address).copied().unwrap_or_default()
    }

    /// Makes space for one more connection among those that have not authenticated.
    fn crowd_out(&mut self) {
        let maximum = self.limits.unauthenticated_connections;
        while self.unauthenticated.load(Ordering::Acquire) >= maximum
            && let Some(oldest) = self.newcomers.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                oldest.crowd_out();
            }
        }
        if self.newcomers.len() > maximum.saturating_mul(2) {
            self.newcomers.retain(|newcomer| {
                let newcomer = newcomer.upgrade();
                newcomer.is_some_and(|newcomer| newcomer.is_unauthenticated())
            });
        }
    }
}

impl Place {
    /// Address that the connection is counted by.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock();
        if let Some(connections) = by_address.get_mut(&self.address) {
            *connections -= 1;
            if *connections == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Address that connections are counted by. One machine has a whole /64 of IPv6 addresses.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
