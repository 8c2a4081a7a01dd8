//! Memory of responses: what the server holds until clients have taken it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::Extensions;
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::{IdentityUsage, ResponseBudget};
use crate::incoming::{ConnectionState, PeerInfo};

/// Time that a response waits for memory before it is refused.
const RESERVATION_TIMEOUT: Duration = Duration::from_mins(1);
/// Size up to which a message is not counted: most are smaller, and a call takes as much anyway.
const UNCOUNTED_MESSAGE_BYTES: u64 = 4 << 10;
/// Largest blob that stores read whole, by one read.
const MAX_WHOLE_BLOB_BYTES: u64 = 1 << 20;
/// Memory of a download that reads small chunks: one in the connection's buffer, one that is encoded.
const SMALL_DOWNLOAD_BYTES: u64 = 64 << 10;
/// Chunk of such a download.
const SMALL_CHUNK_BYTES: u64 = 32 << 10;
/// Bytes that may wait in the connection's buffer before such a download reads on.
const SMALL_BUFFER_BYTES: usize = 16 << 10;
/// Memory that a download at full speed takes in addition: the rest of one chunk in the connection's buffer, one that is
/// encoded, and one that is read ahead.
const FAST_DOWNLOAD_BYTES: u64 = 3 << 20;
/// Chunk of a download at full speed.
const FAST_CHUNK_BYTES: u64 = 1 << 20;
/// Bytes that may wait in the connection's buffer before such a download reads on: as much as hyper lets wait.
const FAST_BUFFER_BYTES: usize = 400 << 10;
/// Memory of a compressor: its window of 512 KiB, its tables and its buffers.
const COMPRESSOR_BYTES: u64 = 1 << 20;

/// Permits of the connection (if it has a budget), the identity and the server.
type Permits = [Option<OwnedSemaphorePermit>; 3];

/// Memory that one response has reserved. A service puts it into the extensions of the response. It is released when
/// the last byte has left for the network and the body is gone.
#[derive(Debug, Clone)]
pub struct ResponseMemory(Option<Arc<Reservation>>);

#[derive(Debug)]
struct Reservation {
    usage: Arc<IdentityUsage>,
    connection: Option<Arc<ConnectionState>>,
    _needed: Permits,
    /// Memory for full speed, once it was to be had. `None` if the response is no stream of chunks.
    speed: Option<OnceLock<Permits>>,
    /// Bytes that have not left for the network.
    unsent: AtomicUsize,
    /// Wakes the task of the response's body when bytes have left.
    sent: AtomicWaker,
}

/// Extension of a request that leads to the budgets of its identity and of the server.
#[derive(Debug, Clone)]
pub(super) struct Budgets(pub(super) Arc<IdentityUsage>);

impl ResponseMemory {
    /// Reserves memory for a response of `bytes` that is made whole. Waits for other responses to end; after a minute it
    /// fails with `RESOURCE_EXHAUSTED`. Without limits in the extensions of the request, everything is granted.
    pub async fn for_message(request: &Extensions, bytes: u64) -> Result<Self, Status> {
        if bytes <= UNCOUNTED_MESSAGE_BYTES {
            return Ok(Self(None));
        }
        Self::reserve(request, bytes, None).await
    }

    /// Reserves memory for a download of `bytes`, and waits as [`for_message`](Self::for_message).
    pub async fn for_download(request: &Extensions, bytes: u64, is_compressed: bool) -> Result<Self, Status> {
        let compressor = if is_compressed { COMPRESSOR_BYTES } else { 0 };
        if bytes <= MAX_WHOLE_BLOB_BYTES {
            return Self::reserve(request, bytes + compressor, None).await;
        }
        let needed = SMALL_DOWNLOAD_BYTES + compressor;
        Self::reserve(request, needed, Some(OnceLock::new())).await
    }

    /// Reserves memory for the decompression of an upload, and waits as [`for_message`](Self::for_message). It is released
    /// when the result is dropped.
    pub async fn for_decompression(request: &Extensions, bytes: u64) -> Result<Self, Status> {
        Self::reserve(request, bytes, None).await
    }

    /// Reserves memory as [`for_message`](Self::for_message), but does not wait. `None` if there is none at the moment.
    pub fn try_for_message(request: &Extensions, bytes: u64) -> Option<Self> {
        if bytes <= UNCOUNTED_MESSAGE_BYTES {
            return Some(Self(None));
        }
        let Some((usage, connection)) = budgets(request) else {
            return Some(Self(None));
        };
        let needed = usage.try_acquire(connection.as_ref(), bytes, |budget| &budget.needed)?;
        Some(Self::granted(usage, connection, needed, None))
    }

    async fn reserve(
        request: &Extensions,
        bytes: u64,
        speed: Option<OnceLock<Permits>>,
    ) -> Result<Self, Status> {
        let Some((usage, connection)) = budgets(request) else {
            return Ok(Self(None));
        };
        let needed = match usage.try_acquire(connection.as_ref(), bytes, |budget| &budget.needed) {
            Some(needed) => needed,
            None => {
                let acquired = usage.acquire(connection.as_ref(), bytes);
                let acquired = tokio::time::timeout(RESERVATION_TIMEOUT, acquired).await;
                acquired.map_err(|_| exhausted())?
            }
        };
        Ok(Self::granted(usage, connection, needed, speed))
    }

    fn granted(
        usage: Arc<IdentityUsage>,
        connection: Option<Arc<ConnectionState>>,
        needed: Permits,
        speed: Option<OnceLock<Permits>>,
    ) -> Self {
        Self(Some(Arc::new(Reservation {
            usage,
            connection,
            _needed: needed,
            speed,
            unsent: AtomicUsize::new(0),
            sent: AtomicWaker::new(),
        })))
    }

    /// Largest chunk that fits into the memory of this response; `None` if there is no limit.
    pub fn chunk_limit(&self) -> Option<u64> {
        let reservation = self.0.as_ref()?;
        reservation.speed.as_ref()?;
        Some(if reservation.is_fast() {
            FAST_CHUNK_BYTES
        } else {
            SMALL_CHUNK_BYTES
        })
    }

    /// True if so little waits to be sent that the response may go on. Otherwise the task is woken when that changes.
    pub(super) fn has_space(&self, context: &std::task::Context<'_>) -> bool {
        let Some(reservation) = self.0.as_ref().filter(|reservation| reservation.speed.is_some()) else {
            return true;
        };
        let limit = if reservation.is_fast() {
            FAST_BUFFER_BYTES
        } else {
            SMALL_BUFFER_BYTES
        };
        let has_space = || reservation.unsent.load(Ordering::Acquire) < limit;
        if has_space() {
            return true;
        }
        reservation.sent.register(context.waker());
        // Bytes may have left between the look and the registration.
        has_space()
    }

    /// Data that keeps the reservation until it has left for the network.
    pub(super) fn holding(&self, data: Bytes) -> Bytes {
        let Some(reservation) = &self.0 else {
            return data;
        };
        reservation.unsent.fetch_add(data.len(), Ordering::AcqRel);
        let connection = reservation.connection.as_ref();
        Bytes::from_owner(UnsentBytes {
            interval: connection.map_or(0, |connection| connection.unsent()),
            data,
            reservation: Arc::clone(reservation),
        })
    }
}

impl Reservation {
    /// True if the response has the memory for full speed, or could get it now.
    fn is_fast(&self) -> bool {
        let Some(speed) = &self.speed else {
            return false;
        };
        if speed.get().is_some() {
            return true;
        }
        let connection = self.connection.as_ref();
        let acquired = self
            .usage
            .try_acquire(connection, FAST_DOWNLOAD_BYTES, |budget| &budget.speed);
        // Only the task of the response asks, so nobody else can have set it.
        acquired.is_some_and(|permits| speed.set(permits).is_ok())
    }
}

impl IdentityUsage {
    /// True if responses wait for memory of the identity or the server.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.responses.is_waited_for() || self.all_responses.is_waited_for()
    }

    fn response_budgets<'a>(
        &'a self,
        connection: Option<&'a Arc<ConnectionState>>,
    ) -> [Option<&'a ResponseBudget>; 3] {
        [
            connection.map(|connection| connection.responses()),
            Some(&self.responses),
            Some(&self.all_responses),
        ]
    }

    /// Takes permits of one half of each budget, all or none.
    fn try_acquire(
        &self,
        connection: Option<&Arc<ConnectionState>>,
        bytes: u64,
        half: impl Fn(&ResponseBudget) -> &Arc<Semaphore>,
    ) -> Option<Permits> {
        let mut permits = Permits::default();
        for (permit, budget) in permits.iter_mut().zip(self.response_budgets(connection)) {
            if let Some(budget) = budget {
                let semaphore = Arc::clone(half(budget));
                *permit = Some(semaphore.try_acquire_many_owned(budget.permits_for(bytes)).ok()?);
            }
        }
        Some(permits)
    }

    /// Waits for the needed memory: always for that of the connection first, so that a connection that has used up its
    /// own holds nothing of the others' while it waits.
    async fn acquire(&self, connection: Option<&Arc<ConnectionState>>, bytes: u64) -> Permits {
        let mut permits = Permits::default();
        for (permit, budget) in permits.iter_mut().zip(self.response_budgets(connection)) {
            if let Some(budget) = budget {
                let semaphore = Arc::clone(&budget.needed);
                let _waiting = budget.wait();
                // The semaphores are never closed.
                *permit = semaphore.acquire_many_owned(budget.permits_for(bytes)).await.ok();
            }
        }
        permits
    }
}

/// Part of a response in the buffers of its connection.
struct UnsentBytes {
    data: Bytes,
    /// Interval in which the connection counts it.
    interval: usize,
    reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for UnsentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.reservation
            .unsent
            .fetch_sub(self.data.len(), Ordering::AcqRel);
        self.reservation.sent.wake();
        if let Some(connection) = &self.reservation.connection {
            connection.sent(self.interval);
        }
    }
}

/// Budgets of a request: of its identity (with the server's), and of its connection.
fn budgets(request: &Extensions) -> Option<(Arc<IdentityUsage>, Option<Arc<ConnectionState>>)> {
    let Budgets(usage) = request.get::<Budgets>()?;
    let connection = request.get::<PeerInfo>().map(|peer| Arc::clone(&peer.state));
    if let Some(connection) = &connection {
        connection.uses(usage);
    }
    Some((Arc::clone(usage), connection))
}

fn exhausted() -> Status {
    counter!("bitzel_access_refusals_total", "reason" => "responses").increment(1);
    Status::resource_exhausted(
        "responses that clients have not read, and compressed uploads, hold all the memory for them of this connection, \
         identity or server; read responses, end uploads, or ask who runs the server for higher limits (response_bytes \
         in docs/access.md)",
    )
}
