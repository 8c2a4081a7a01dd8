//! Bodies of requests and responses.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bitzel_cas::blob_store::BlobStream;
use bitzel_cas::error::Error;
use bitzel_proto::with_causes;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status};

/// Stream of a request's body. It fails if the client disconnects before the end or stops sending.
pub(super) fn stream_of(body: Body) -> BlobStream {
    body.into_data_stream().map_err(body_error).boxed()
}

/// Error of a body that the caller's limits refused, or whose client disconnected.
fn body_error(error: axum::Error) -> Error {
    match error.into_inner().downcast::<Status>() {
        // The client stopped sending; no other server was too slow.
        Ok(refusal) if refusal.code() == Code::DeadlineExceeded => {
            Error::InvalidArgument(format!("the body was refused: {}", refusal.message()))
        }
        Ok(refusal) => Error::remote("the body was refused")(*refusal),
        Err(error) => {
            let reason = with_causes(error.as_ref());
            Error::InvalidArgument(format!("the body broke off before its end: {reason}"))
        }
    }
}

/// Body of a response, with its length if that is known. Missing bytes are an error, which closes the connection, so
/// that no client mistakes them for a complete body.
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
                tracing::warn!(error = with_causes(&error), "an answer was not sent to its end");
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

/// Answer with bytes.
pub(super) fn bytes_of(stream: BlobStream, length: Option<u64>) -> Response<Body> {
    let mut response = Response::new(Body::new(ResponseBody {
        stream,
        remaining: length,
    }));
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response
}

/// Answer with text for people.
pub(super) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
