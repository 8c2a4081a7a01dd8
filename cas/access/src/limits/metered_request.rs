//! Request body that waits for bytes of its identity's limit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use metrics::counter;
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tower::BoxError;

use super::{BYTES_PER_PERMIT, CallReservation};
use crate::access_layer::RefusalBody;

/// Time that a message waits for bytes of the limit before it is refused.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the header before each gRPC message: compression flag and length.
const GRPC_HEADER_BYTES: usize = 5;

/// Request body that reserves the bytes of each message before it passes the message on, and releases them when the
/// service asks for the next one, because it has finished with the last. So a call never waits while it holds bytes.
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
    /// Data that waits for permits.
    pending: Option<Bytes>,
    /// Header bytes of the next message that have arrived.
    header: Vec<u8>,
    /// Bytes of the present message that have not arrived.
    remaining: u64,
    /// Permits that the next message needs; 0 if it needs none.
    wanted: u32,
    /// End of the wait for them.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<C: RefusalBody> MeteredRequest<C> {
    pub(super) fn new(body: C, reservation: Arc<CallReservation>, limit: u32) -> Self {
        let permits = PollSemaphore::new(Arc::clone(&reservation.usage.bytes));
        Self {
            body,
            reservation,
            limit,
            permits,
            pending: None,
            header: Vec::with_capacity(GRPC_HEADER_BYTES),
            remaining: 0,
            wanted: 0,
            deadline: None,
        }
    }

    /// Permits for `bytes`. A message larger than the limit takes the whole limit.
    fn permits_for(&self, bytes: u64) -> u32 {
        let permits = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        permits.clamp(1, self.limit)
    }

    /// Skips `data` up to the end of the header of a message that needs permits.
    fn scan(&mut self, data: &mut Bytes) {
        if !C::HAS_MESSAGES {
            self.wanted = self.permits_for(data.len() as u64);
            data.clear();
        }
        while data.has_remaining() && self.wanted == 0 {
            if self.remaining > 0 {
                let skipped = self.remaining.min(data.remaining() as u64);
                self.remaining -= skipped;
                data.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                continue;
            }
            self.header.push(data.get_u8());
            if let [_, length @ ..] = self.header.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.remaining = u32::from_be_bytes(length).into();
                self.header.clear();
                self.wanted = self.permits_for(self.remaining);
            }
        }
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
            if this.remaining == 0 && this.header.is_empty() {
                *this.reservation.message.lock() = None;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending = Some(data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
            let mut data = this.pending.clone().unwrap_or_default();
            // The largest of several messages that arrived together is enough: their bytes are here anyway.
            let mut wanted = 0;
            while data.has_remaining() {
                this.scan(&mut data);
                wanted = wanted.max(std::mem::take(&mut this.wanted));
            }
            this.wanted = wanted;
        }
        if this.wanted > 0 {
            *this.reservation.message.lock() = None;
            match this.permits.poll_acquire_many(context, this.wanted) {
                Poll::Ready(permit) => *this.reservation.message.lock() = permit,
                Poll::Pending => {
                    let deadline = this
                        .deadline
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(ADMISSION_TIMEOUT)));
                    ready!(deadline.as_mut().poll(context));
                    counter!("bitzel_access_refusals_total", "reason" => "bytes").increment(1);
                    let refusal = Status::resource_exhausted(format!(
                        "requests of this identity hold {} KiB, which is the limit; try again when some are over",
                        this.limit
                    ));
                    return Poll::Ready(Some(Err(refusal.into())));
                }
            }
            this.wanted = 0;
            this.deadline = None;
        }
        Poll::Ready(this.pending.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
