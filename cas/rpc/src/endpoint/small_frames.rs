//! Small responses that leave in one piece.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// `h2` copies data of up to 255 bytes behind the frames before and lets more follow (`CHAIN_THRESHOLD` of its
/// `codec/framed_write.rs`). Larger data it sends from where they are, and ends a write with that.
const COPIED: usize = 255;
/// What is larger is not small: the frames of 9 bytes in between, and looking at them, would cost more than a write.
const SMALL: usize = 4 * COPIED;

pin_project! {
    /// A body whose small pieces are cut into such that `h2` copies: a response with one message of some hundred bytes
    /// is then one write and one packet, headers and trailers included. Otherwise the trailers, 10 bytes with a gRPC
    /// status, are one of their own: 29,000 instead of 32,000 results of Actions a second on two processors.
    pub struct SmallFrames<B> {
        #[pin]
        inner: B,
        rest: Bytes,
    }
}

/// To be applied to the responses of a server, see [`SmallFrames`].
pub fn small_frames<B>(response: Response<B>) -> Response<SmallFrames<B>> {
    response.map(|inner| SmallFrames {
        inner,
        rest: Bytes::new(),
    })
}

impl<B: Body<Data = Bytes>> Body for SmallFrames<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let frame = match ready!(this.inner.poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) if (COPIED + 1..=SMALL).contains(&data.len()) => *this.rest = data,
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(COPIED));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::executor::block_on;
    use futures::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[test]
    fn small_pieces_are_cut_and_nothing_else_changes() {
        let of = |sizes: &[usize]| {
            let data = sizes.iter().map(|size| Frame::data(Bytes::from(vec![7; *size])));
            let frames: Vec<_> = data
                .chain([Frame::trailers(HeaderMap::new())])
                .map(Ok::<_, Infallible>)
                .collect();
            let mut body =
                Box::pin(small_frames(Response::new(StreamBody::new(stream::iter(frames)))).into_body());
            let mut sizes = vec![];
            while let Some(Ok(frame)) = block_on(body.frame()) {
                sizes.push(frame.data_ref().map(Bytes::len));
            }
            assert!(body.is_end_stream() || sizes.last() == Some(&None));
            sizes
        };
        assert_eq!(of(&[0, 255]), [Some(0), Some(255), None]);
        assert_eq!(of(&[256, 1]), [Some(255), Some(1), Some(1), None]);
        assert_eq!(of(&[1020]), [Some(255), Some(255), Some(255), Some(255), None]);
        assert_eq!(of(&[1021, 1 << 20]), [Some(1021), Some(1 << 20), None]);
    }

    #[test]
    fn what_is_left_of_a_piece_counts() {
        let body = http_body_util::Full::new(Bytes::from(vec![7; 300]));
        let mut body = small_frames(Response::new(body)).into_body();
        assert_eq!(body.size_hint().exact(), Some(300));
        block_on(body.frame()).unwrap().unwrap();
        assert_eq!(
            (body.size_hint().exact(), body.is_end_stream()),
            (Some(45), false)
        );
        block_on(body.frame()).unwrap().unwrap();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
    }
}
