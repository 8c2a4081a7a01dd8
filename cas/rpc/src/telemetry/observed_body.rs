//! Response body whose end is observed: a gRPC status comes in the trailers, after the last message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use metrics::{counter, gauge, histogram};
use pin_project_lite::pin_project;
use tonic::Code;
use tracing::Span;

use super::called_method::CalledMethod;

const GRPC_STATUS: &str = "grpc-status";

/// Record of one request, which is published when it is dropped. If the status is not known by then, the client has
/// gone: the code is `Cancelled`, as in gRPC.
pub(super) struct Observation {
    called: CalledMethod,
    began: Instant,
    span: Span,
    code: Option<Code>,
    code_of_complete_response: Option<Code>,
}

impl Observation {
    pub(super) fn begin(called: CalledMethod, span: Span) -> Self {
        gauge!("bitzel_requests_in_flight").increment(1.0);
        Self {
            called,
            began: Instant::now(),
            span,
            code: None,
            code_of_complete_response: None,
        }
    }

    /// Sets the code that holds if the response is sent to its end, for protocols that send the status first.
    pub(super) fn set_code_of_complete_response(&mut self, code: Code) {
        self.code_of_complete_response = Some(code);
    }

    /// Notes that the response was sent to its end.
    fn complete(&mut self) {
        self.code = self.code.or(self.code_of_complete_response);
    }

    /// Reads the status, if these are the headers or trailers that carry it.
    pub(super) fn read_grpc_status(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(GRPC_STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }

    pub(super) fn fail(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let elapsed = self.began.elapsed();
        let called = &self.called;
        gauge!("bitzel_requests_in_flight").decrement(1.0);
        counter!("bitzel_requests_total", "service" => called.service.clone(), "method" => called.method.clone(),
            "code" => name(code))
        .increment(1);
        histogram!("bitzel_request_duration_seconds", "service" => called.service.clone(),
            "method" => called.method.clone())
        .record(elapsed.as_secs_f64());
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.span.record("code", name(code));
        let _entered = self.span.enter();
        match code {
            Code::Ok | Code::NotFound => tracing::debug!(milliseconds, "request"),
            Code::Internal | Code::Unknown | Code::DataLoss => tracing::warn!(milliseconds, "request failed"),
            _ => tracing::info!(milliseconds, "request refused or broken off"),
        }
    }
}

/// Name of a code in the specification of gRPC.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

pin_project! {
    /// Body that is passed on unchanged while its trailers are read.
    pub struct ObservedBody<B> {
        #[pin]
        inner: B,
        observation: Option<Observation>,
    }
}

impl<B> ObservedBody<B> {
    pub(super) fn new(inner: B, mut observation: Observation) -> Self
    where
        B: Body,
    {
        if inner.is_end_stream() {
            observation.complete();
        }
        Self {
            inner,
            observation: Some(observation),
        }
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let span = this
            .observation
            .as_ref()
            .map(|observation| observation.span.clone());
        let _entered = span.as_ref().map(Span::enter);
        let mut inner = this.inner;
        let frame = ready!(inner.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(observation)) = (frame.trailers_ref(), this.observation.as_mut())
                {
                    observation.read_grpc_status(trailers);
                }
                // If the length is known, the body is not polled again after its last byte.
                if inner.is_end_stream()
                    && let Some(observation) = this.observation.as_mut()
                {
                    observation.complete();
                }
            }
            Some(Err(_)) => {
                if let Some(observation) = this.observation.as_mut() {
                    observation.fail(Code::Internal);
                }
            }
            None => {
                if let Some(mut observation) = this.observation.take() {
                    observation.complete();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
