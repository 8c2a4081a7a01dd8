//! Response body that keeps the reservation of its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower::BoxError;

use super::CallReservation;
use crate::access_layer::RefusalBody;

/// Response body with the reservation of its call, which ends with the last byte of the response.
pub(super) struct ReservedResponse<C> {
    pub(super) body: C,
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
        let frame = ready!(Pin::new(&mut self.get_mut().body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
