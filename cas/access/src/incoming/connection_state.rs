//! State of a connection: its callers, its calls and its unsent responses.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::admission::Place;
use crate::limits::{IdentityUsage, Limits, ResponseBudget};

/// Interval of the looks at a connection.
const REVIEW_INTERVAL: Duration = Duration::from_secs(10);
/// Time without calls after which a connection without an authenticated caller is closed. Longer than the interval of
/// health checks.
const ANONYMOUS_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Reviews after which data that the client has not taken is overdue: 30 to 40 seconds.
const OVERDUE_INTERVALS: usize = 4;
/// Intervals that are told apart. Older data is taken for newer until it is overdue again.
const COUNTED_INTERVALS: usize = 8;

/// Calls at the same time that need no permission: a watch of the server's health, and checks beside it.
pub(crate) const MAX_CALLS_WITHOUT_PERMISSION: usize = 4;

/// Reason why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum CloseReason {
    /// No permitted call began in time.
    #[error("no call that is permitted began in time")]
    NotAuthenticated = 1,
    /// There was no call for long.
    #[error("there was no call for long")]
    Idle = 2,
    /// The client does not read its responses, while others wait for their memory.
    #[error("the client does not read its responses, and others wait for their memory")]
    Unread = 3,
    /// A newer connection took its place among those that have not authenticated.
    #[error("too many connections have not authenticated")]
    Crowded = 4,
}

impl CloseReason {
    /// Label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NotAuthenticated => "unauthenticated",
            Self::Idle => "idle",
            Self::Unread => "unread",
            Self::Crowded => "crowded",
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::NotAuthenticated, Self::Idle, Self::Unread, Self::Crowded]
            .into_iter()
            .find(|reason| *reason as u8 == byte)
    }
}

/// Outcome of a look at a connection.
pub(super) enum Review {
    /// It is to be closed.
    Close(CloseReason),
    /// It is to be looked at again then.
    NextAt(Instant),
}

/// State that a connection, its calls and its listener share.
#[derive(Debug)]
pub struct ConnectionState {
    /// Address of the client, or its network.
    address: IpAddr,
    accepted: Instant,
    authentication_timeout: Duration,
    idle_timeout: Duration,
    /// True once a call was permitted.
    permitted: AtomicBool,
    /// True as long as the connection counts among those that have not authenticated.
    unauthenticated: AtomicBool,
    /// Number of such connections.
    all_unauthenticated: Arc<AtomicUsize>,
    calls: AtomicUsize,
    /// Permits of calls that need no permission.
    calls_without_permission: Arc<Semaphore>,
    /// Milliseconds from `accepted` to the end of the last call.
    last_call: AtomicU64,
    /// Place among the connections of the listener, given up when another one takes it.
    place: Mutex<Option<Place>>,
    /// [`CloseReason`] once the connection is to be closed, 0 before.
    closing: AtomicU8,
    /// Wakes the task of the connection to close it.
    close: AtomicWaker,
    responses: ResponseBudget,
    /// Budgets of the connection's first identity.
    usage: OnceLock<Arc<IdentityUsage>>,
    /// Pieces of responses that the client has not taken, by the interval in which they were made.
    unsent: [AtomicU32; COUNTED_INTERVALS],
}

impl ConnectionState {
    pub(super) fn new(limits: &Limits, place: Place, all_unauthenticated: Arc<AtomicUsize>) -> Self {
        all_unauthenticated.fetch_add(1, Ordering::AcqRel);
        Self {
            address: place.address(),
            accepted: Instant::now(),
            authentication_timeout: limits.authentication_timeout,
            idle_timeout: limits.idle_timeout,
            permitted: AtomicBool::new(false),
            unauthenticated: AtomicBool::new(true),
            all_unauthenticated,
            calls: AtomicUsize::new(0),
            calls_without_permission: Arc::new(Semaphore::new(MAX_CALLS_WITHOUT_PERMISSION)),
            last_call: AtomicU64::new(0),
            place: Mutex::new(Some(place)),
            closing: AtomicU8::new(0),
            close: AtomicWaker::new(),
            responses: ResponseBudget::new(limits.response_bytes_per_connection),
            usage: OnceLock::new(),
            unsent: Default::default(),
        }
    }

    /// Address of the client by which its connections are counted: in IPv6, that of its network.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// True if the client is on this machine.
    pub fn is_local(&self) -> bool {
        // The network of `::1` is `::`.
        self.address.is_loopback() || self.address.is_unspecified()
    }

    /// Permits of calls that need no permission. Everybody may make them, so they count for the connection, of which
    /// there is a limited number, and not for an identity that others share.
    pub(crate) fn calls_without_permission(&self) -> &Arc<Semaphore> {
        &self.calls_without_permission
    }

    /// Budget of the connection's responses.
    pub(crate) fn responses(&self) -> &ResponseBudget {
        &self.responses
    }

    /// Remembers whose budgets the connection uses.
    pub(crate) fn uses(&self, usage: &Arc<IdentityUsage>) {
        self.usage.get_or_init(|| Arc::clone(usage));
    }

    /// Notes that a call was permitted.
    pub(crate) fn permit(&self, is_authenticated: bool) {
        if !self.permitted.load(Ordering::Relaxed) {
            self.permitted.store(true, Ordering::Release);
        }
        if is_authenticated && self.unauthenticated.load(Ordering::Relaxed) {
            self.leave_unauthenticated();
        }
    }

    /// Takes the connection out of the number of those that have not authenticated.
    fn leave_unauthenticated(&self) {
        if self.unauthenticated.swap(false, Ordering::AcqRel) {
            self.all_unauthenticated.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Counts a call until the result is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> OpenCall {
        self.calls.fetch_add(1, Ordering::AcqRel);
        OpenCall(Arc::clone(self))
    }

    /// Counts a piece of a response that is made. The result is for [`sent`](Self::sent).
    pub(crate) fn unsent(&self) -> usize {
        let interval = self.interval() % COUNTED_INTERVALS;
        self.unsent[interval].fetch_add(1, Ordering::AcqRel);
        interval
    }

    /// Notes that a piece of a response has left for the network, or is given up.
    pub(crate) fn sent(&self, interval: usize) {
        self.unsent[interval].fetch_sub(1, Ordering::AcqRel);
    }

    fn interval(&self) -> usize {
        let intervals = self.accepted.elapsed().as_secs() / REVIEW_INTERVAL.as_secs();
        usize::try_from(intervals).unwrap_or(usize::MAX)
    }

    /// True if no caller has authenticated.
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.unauthenticated.load(Ordering::Acquire)
    }

    /// Closes the connection, unless somebody has authenticated on it.
    pub(super) fn crowd_out(&self) {
        if !self.is_unauthenticated() || self.is_closing() {
            return;
        }
        self.leave_unauthenticated();
        // Its task ends a moment later, so there may be a few connections more meanwhile.
        drop(self.place.lock().take());
        self.closing.store(CloseReason::Crowded as u8, Ordering::Release);
        self.close.wake();
    }

    /// True once the connection is to be closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) != 0
    }

    /// Reason to close the connection now. Otherwise the task is woken when there is one.
    pub(super) fn poll_closing(&self, context: &Context<'_>) -> Option<CloseReason> {
        self.close.register(context.waker());
        CloseReason::from_byte(self.closing.load(Ordering::Acquire))
    }

    pub(super) fn review(&self) -> Review {
        let now = Instant::now();
        if !self.permitted.load(Ordering::Acquire) {
            return self.close_or_wait(
                now,
                self.accepted + self.authentication_timeout,
                CloseReason::NotAuthenticated,
            );
        }
        // Also after the calls have ended: HTTP/2 keeps what their bodies gave it until the client takes it.
        if self.has_overdue_data() && self.others_wait() {
            return Review::Close(CloseReason::Unread);
        }
        if self.calls.load(Ordering::Acquire) == 0 {
            let last_call = Duration::from_millis(self.last_call.load(Ordering::Acquire));
            let timeout = if self.unauthenticated.load(Ordering::Acquire) {
                self.idle_timeout.min(ANONYMOUS_IDLE_TIMEOUT)
            } else {
                self.idle_timeout
            };
            let limit = self.accepted + last_call + timeout;
            return self.close_or_wait(now, limit, CloseReason::Idle);
        }
        Review::NextAt(now + REVIEW_INTERVAL)
    }

    fn close_or_wait(&self, now: Instant, limit: Instant, reason: CloseReason) -> Review {
        if now >= limit {
            return Review::Close(reason);
        }
        // Calls may begin before the limit, and are looked at as often as others.
        let next = if self.permitted.load(Ordering::Acquire) {
            limit.min(now + REVIEW_INTERVAL)
        } else {
            limit
        };
        Review::NextAt(next)
    }

    fn has_overdue_data(&self) -> bool {
        let present = self.interval();
        let overdue = present + 1..=present + COUNTED_INTERVALS - OVERDUE_INTERVALS;
        overdue
            .into_iter()
            .any(|interval| self.unsent[interval % COUNTED_INTERVALS].load(Ordering::Acquire) > 0)
    }

    /// True if responses wait for memory that this connection holds.
    fn others_wait(&self) -> bool {
        self.responses.is_waited_for() || self.usage.get().is_some_and(|usage| usage.is_waited_for())
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        self.leave_unauthenticated();
    }
}

/// Call that is under way on a connection.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<ConnectionState>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let state = &self.0;
        let elapsed = state.accepted.elapsed().as_millis();
        state
            .last_call
            .store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Release);
        state.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
