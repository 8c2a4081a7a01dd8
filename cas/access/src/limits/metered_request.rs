//! Request body that waits for bytes of its identity's limit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bitzel_proto::message_memory::{MessageScan, MethodRequests};
use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use metrics::counter;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tower::BoxError;

use super::{BYTES_PER_PERMIT, CallReservation};
use crate::access_layer::RefusalBody;

/// Time that a message waits for bytes of the limit before it is refused.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Least rate at which a request arrives while the service waits for it, after twice the time that it may be idle. A client
/// on a slow line that sends a hundred blobs at once is faster.
const MIN_BYTES_PER_SECOND: u64 = 1 << 10;
/// Size of the header before each gRPC message: compression flag and length.
const GRPC_HEADER_BYTES: usize = 5;
/// Memory of a decoded message that is not counted beside its bytes: the message itself and a few names.
const UNCOUNTED_MEMORY_BYTES: u64 = 1 << 10;
/// Memory that every message may take once it is decoded.
const MAX_SMALL_MESSAGE_MEMORY: u64 = 64 << 20;
/// Memory that a larger message may take for each of its bytes. Results with many small files take four times as much as
/// their bytes; a message of empty elements takes eighty times as much.
const MAX_MEMORY_PER_BYTE: u64 = 6;

/// Request body that reserves the memory of each message before it passes the message on, and releases it when the
/// service asks for the next one, because it has finished with the last. If there is only one request, it is released
/// with the response. So a call never waits for the next message while it holds memory.
///
/// The memory of a message is that of its bytes or of what they are decoded to, whatever is more. The latter is known as
/// the bytes arrive. A message whose small elements take too much is refused.
///
/// The wait has a time limit. All calls of a connection share its flow control window: data of waiting calls may keep
/// out the rest of a message that has its bytes reserved, and then no call would continue.
///
/// In protocols without messages, each piece of data counts as one.
pub(super) struct MeteredRequest<C> {
    body: C,
    reservation: Arc<CallReservation>,
    /// Limit of the identity, in permits.
    limit: u32,
    permits: PollSemaphore,
    /// Requests of the method, if it is known.
    requests: Option<MethodRequests>,
    /// Data that waits for permits.
    pending: Option<Bytes>,
    /// Header bytes of the next message that have arrived.
    header: Vec<u8>,
    /// Bytes of the present message that have not arrived.
    remaining: u64,
    /// Size of the present message.
    message_bytes: u64,
    /// Count of the memory of the present message.
    scan: Option<MessageScan>,
    /// Permits that the pending data needs in all.
    wanted: u32,
    /// End of the wait for them.
    deadline: Option<Pin<Box<Sleep>>>,
    idle: IdleTimer,
}

impl<C: RefusalBody> MeteredRequest<C> {
    /// Meters the body of a request for `path`.
    pub(super) fn new(
        body: C,
        path: &str,
        reservation: Arc<CallReservation>,
        limit: u32,
        idle_timeout: Duration,
    ) -> Self {
        let permits = PollSemaphore::new(Arc::clone(&reservation.usage.bytes));
        Self {
            body,
            reservation,
            limit,
            permits,
            requests: MethodRequests::of(path).filter(|_| C::HAS_MESSAGES),
            pending: None,
            header: Vec::with_capacity(GRPC_HEADER_BYTES),
            remaining: 0,
            message_bytes: 0,
            scan: None,
            wanted: 0,
            deadline: None,
            idle: IdleTimer::new(idle_timeout),
        }
    }

    /// Permits for `bytes`. A message larger than the limit takes the whole limit.
    fn permits_for(&self, bytes: u64) -> u32 {
        let permits = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        permits.clamp(1, self.limit)
    }

    /// True if a call has one request, whose memory the service needs until it answers.
    pub(super) fn has_one_request(&self) -> bool {
        self.requests
            .is_some_and(|requests| !requests.is_client_streaming)
    }

    fn is_between_messages(&self) -> bool {
        self.remaining == 0 && self.header.is_empty()
    }

    /// True if the messages come when they come.
    fn is_conversation(&self) -> bool {
        let is_conversation = match self.requests {
            Some(requests) => requests.is_client_streaming && requests.is_server_streaming,
            None => true,
        };
        C::HAS_MESSAGES && is_conversation
    }

    /// True if the client may send nothing for long.
    fn may_be_idle(&self) -> bool {
        self.is_conversation() && self.is_between_messages()
    }

    /// Reads `data` and notes what permits it needs. The largest of several messages that arrived together is enough:
    /// their bytes are here anyway, and they are decoded one after the other. True if a message begins.
    fn look_at(&mut self, mut data: Bytes) -> Result<bool, Status> {
        if !C::HAS_MESSAGES {
            self.wanted = self.permits_for(data.len() as u64);
            return Ok(true);
        }
        let mut begins = false;
        self.wanted = 0;
        while data.has_remaining() {
            if self.remaining > 0 {
                let arrived = self.remaining.min(data.remaining() as u64);
                let arrived_bytes = usize::try_from(arrived).unwrap_or(usize::MAX);
                if let Some(scan) = &mut self.scan {
                    scan.read(&data[..arrived_bytes]);
                }
                data.advance(arrived_bytes);
                self.remaining -= arrived;
                self.count_message()?;
                continue;
            }
            self.header.push(data.get_u8());
            if let [_, length @ ..] = self.header.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.remaining = u32::from_be_bytes(length).into();
                self.message_bytes = self.remaining;
                self.scan = self.requests.map(|requests| requests.scan(self.message_bytes));
                self.header.clear();
                begins = true;
                self.count_message()?;
            }
        }
        Ok(begins)
    }

    /// Notes what permits the present message needs, as far as it is known.
    fn count_message(&mut self) -> Result<(), Status> {
        let memory = self.scan.as_ref().map_or(0, MessageScan::memory);
        let limit = MAX_SMALL_MESSAGE_MEMORY.max(self.message_bytes * MAX_MEMORY_PER_BYTE);
        if memory > limit {
            counter!("bitzel_access_refusals_total", "reason" => "elements").increment(1);
            return Err(Status::invalid_argument(format!(
                "the message of {} bytes takes more than {} MiB in memory, because it has very many small elements; \
                 use several messages",
                self.message_bytes,
                limit >> 20
            )));
        }
        let memory = memory.saturating_sub(UNCOUNTED_MEMORY_BYTES);
        self.wanted = self.wanted.max(self.permits_for(memory.max(self.message_bytes)));
        Ok(())
    }

    /// Waits for the permits of the pending data.
    fn poll_permits(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let missing = self.wanted.saturating_sub(self.reservation.message.held());
        if missing == 0 {
            return Poll::Ready(Ok(()));
        }
        match self.permits.poll_acquire_many(context, missing) {
            Poll::Ready(permit) => {
                // The semaphore is never closed.
                if let Some(permit) = permit {
                    self.reservation.message.add(permit);
                }
                self.deadline = None;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(ADMISSION_TIMEOUT)));
                ready!(deadline.as_mut().poll(context));
                counter!("bitzel_access_refusals_total", "reason" => "bytes").increment(1);
                Poll::Ready(Err(Status::resource_exhausted(format!(
                    "requests of this identity hold {} KiB, which is the limit; try again when some are over",
                    self.limit
                ))))
            }
        }
    }

    fn release(&mut self) {
        self.reservation.message.release();
    }
}

impl<C: RefusalBody> Body for MeteredRequest<C>
where
    C::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.pending.is_none() {
            if this.is_between_messages() && !this.has_one_request() {
                this.release();
            }
            let frame = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending if this.may_be_idle() => return Poll::Pending,
                Poll::Pending => {
                    let has_least_rate = !this.is_conversation();
                    let refusal = ready!(this.idle.poll_refusal(context, has_least_rate));
                    return Poll::Ready(Some(Err(refusal.into())));
                }
            };
            this.idle.restart();
            let data = match frame
                .transpose()
                .map_err(Into::<BoxError>::into)?
                .map(Frame::into_data)
            {
                Some(Ok(data)) => data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            };
            this.idle.received_bytes += data.len() as u64;
            let begins_message = this.look_at(data.clone())?;
            this.pending = Some(data);
            if begins_message {
                // Nothing waits with memory in hand, unless it grows.
                this.release();
            }
        }
        ready!(this.poll_permits(context))?;
        Poll::Ready(this.pending.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Time for which the service has waited for data of the client.
struct IdleTimer {
    timeout: Duration,
    /// Time since which the service waits.
    idle_since: Option<Instant>,
    /// Time that the service has waited in all before.
    waited: Duration,
    received_bytes: u64,
    /// Next look at the time. It is not moved for each piece of data, which would cost more than the data.
    review: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            idle_since: None,
            waited: Duration::ZERO,
            received_bytes: 0,
            review: None,
        }
    }

    /// Notes that data came.
    fn restart(&mut self) {
        if let Some(since) = self.idle_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Refusal of a request whose client has sent nothing for too long, or too little in all.
    fn poll_refusal(&mut self, context: &mut Context<'_>, has_least_rate: bool) -> Poll<Status> {
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let idle_end = since + self.timeout;
        let allowed = 2 * self.timeout + Duration::from_secs(self.received_bytes / MIN_BYTES_PER_SECOND);
        let slow_end = since + allowed.saturating_sub(self.waited);
        // Neither end comes earlier when data has come, so the review is never too late.
        let end = if has_least_rate {
            idle_end.min(slow_end)
        } else {
            idle_end
        };
        let review = self
            .review
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(review.as_mut().poll(context));
            let now = Instant::now();
            if now >= idle_end {
                counter!("bitzel_access_refusals_total", "reason" => "idle").increment(1);
                return Poll::Ready(Status::deadline_exceeded(format!(
                    "the request did not go on for {}, which is the limit; begin it again",
                    humantime::format_duration(self.timeout)
                )));
            }
            if now >= end {
                counter!("bitzel_access_refusals_total", "reason" => "slow").increment(1);
                return Poll::Ready(Status::deadline_exceeded(format!(
                    "the request arrived at less than {MIN_BYTES_PER_SECOND} bytes a second, which is the limit; begin \
                     it again"
                )));
            }
            review.as_mut().reset(end);
        }
    }
}
