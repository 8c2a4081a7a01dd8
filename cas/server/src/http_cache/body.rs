//! Bodies of requests and responses.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;

use bitzel_cas::blob_store::BlobStream;
use bitzel_cas::error::Error;
use bitzel_proto::with_causes;

/// How long a client may send nothing in the middle of a body.
const PATIENCE: Duration = Duration::from_mins(1);

/// The body of a request. A client that goes before its end, or stands still, is an error of the stream.
pub(super) fn stream_of(body: Body) -> BlobStream {
    let state = (body.into_data_stream(), 0_u64);
    futures::stream::try_unfold(state, |(mut body, received)| async move {
        let next = tokio::time::timeout(PATIENCE, body.next()).await;
        let chunk = next.map_err(|_| {
            Error::InvalidArgument(format!(
                "nothing came for {} s after the first {received} bytes of the body",
                PATIENCE.as_secs()
            ))
        })?;
        let Some(chunk) = chunk.transpose().map_err(broken)? else {
            return Ok(None);
        };
        let received = received + chunk.len() as u64;
        Ok(Some((chunk, (body, received))))
    })
    .boxed()
}

/// What the limits of the caller refused, or else a client that is gone.
fn broken(error: axum::Error) -> Error {
    match error.into_inner().downcast::<Status>() {
        Ok(refusal) => Error::remote("the body was not taken")(*refusal),
        Err(error) => {
            let reason = with_causes(error.as_ref());
            Error::InvalidArgument(format!("the body broke off before its end: {reason}"))
        }
    }
}

/// The body of a response, of a known length where the server knows it. Too few bytes are an error, so that the
/// connection is closed and no client takes them for all.
struct ResponseBody {
    stream: BlobStream,
    remaining: Option<u64>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let chunk = ready!(self.stream.poll_next_unpin(context));
        Poll::Ready(match chunk {
            Some(Ok(chunk)) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining.saturating_sub(chunk.len() as u64);
                }
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "an answer broke off");
                Some(Err(error))
            }
            None => match self.remaining {
                None | Some(0) => None,
                Some(bytes) => Some(Err(Error::InvalidArgument(format!(
                    "{bytes} bytes of the blob are missing"
                )))),
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// An answer with bytes in it.
pub(super) fn bytes_of(stream: BlobStream, length: Option<u64>) -> Response<Body> {
    let mut response = Response::new(Body::new(ResponseBody {
        stream,
        remaining: length,
    }));
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response
}

/// An answer for people.
pub(super) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// An answer that says all there is to say by its status.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
