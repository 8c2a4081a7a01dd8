//! Response body that keeps the reservations of its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower::BoxError;

use super::{CallReservation, ResponseMemory};
use crate::access_layer::RefusalBody;

/// Response body with the reservation of its call, which ends with the last byte of the response.
pub(super) struct ReservedResponse<C> {
    pub(super) body: C,
    /// Memory that the service reserved for the response, if it did.
    pub(super) memory: Option<ResponseMemory>,
    pub(super) _reservation: Arc<CallReservation>,
}

impl<C: RefusalBody> Body for ReservedResponse<C>
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
        let Some(memory) = &this.memory else {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        };
        if !memory.has_space(context) {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            Ok(frame.map_data(|data| memory.holding(data)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
