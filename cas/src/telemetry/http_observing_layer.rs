//! The layer around the HTTP cache.

use std::pin::Pin;
use std::task::{Context, Poll};

use bitzel_proto::{CacheEntry, CachePath};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tonic::Code;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument as _, Level, Span, info_span, span_enabled};

use super::called_method::CalledMethod;
use super::observed_body::{Observation, ObservedBody};
use super::trace_context::continue_trace;

/// Observes every request of the HTTP cache as [`super::ObservingLayer`] does those of gRPC, under the service
/// `HttpCache` and methods like `GetBlob`. Statuses are called as in gRPC, so that one query finds both.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpObservingLayer;

impl<S> Layer<S> for HttpObservingLayer {
    type Service = HttpObserving<S>;

    fn layer(&self, inner: S) -> HttpObserving<S> {
        HttpObserving { inner }
    }
}

/// What [`HttpObservingLayer`] puts around a service.
#[derive(Debug, Clone)]
pub struct HttpObserving<S> {
    inner: S,
}

impl<S, B, C> Service<Request<B>> for HttpObserving<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    S::Error: Send,
    C: Body,
{
    type Response = Response<ObservedBody<C>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let called = called(request.method(), request.uri().path());
        let span = if span_enabled!(Level::INFO) {
            let span = span(&called, request.headers());
            continue_trace(&span, request.headers());
            span
        } else {
            Span::none()
        };
        let mut observation = Observation::begin(called, span.clone());
        let response = span.in_scope(|| self.inner.call(request));
        Box::pin(
            async move {
                match response.await {
                    Ok(response) => {
                        observation.expect(code(response.status()));
                        Ok(response.map(|body| ObservedBody::new(body, observation)))
                    }
                    Err(error) => {
                        observation.fail(Code::Internal);
                        Err(error)
                    }
                }
            }
            .instrument(span),
        )
    }
}

/// What a request is for. Clients choose paths and methods: each would be a time series of its own otherwise.
fn called(method: &Method, path: &str) -> CalledMethod {
    let verb = match method.as_str() {
        "GET" => "Get",
        "HEAD" => "Head",
        "PUT" => "Put",
        "DELETE" => "Delete",
        "OPTIONS" => "Options",
        "PROPFIND" => "Describe",
        "MKCOL" => "Make",
        _ => return CalledMethod::unknown(),
    };
    let entry = match CachePath::parse(path).map(|path| path.entry) {
        Ok(CacheEntry::Blob(..)) => "Blob",
        Ok(CacheEntry::Result(..)) => "Result",
        Ok(CacheEntry::Value(_)) => "Value",
        Ok(CacheEntry::Collection(_)) => "Collection",
        Err(_) => return CalledMethod::unknown(),
    };
    CalledMethod {
        service: "HttpCache".to_owned(),
        method: format!("{verb}{entry}"),
    }
}

/// The code of gRPC that says the same.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 411 | 413 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::FailedPrecondition,
        416 => Code::OutOfRange,
        429 | 507 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        200..400 => Code::Ok,
        _ => Code::Internal,
    }
}

/// `identity` and `code` are filled in when they are known, the first by whoever authenticates the client.
fn span(called: &CalledMethod, headers: &HeaderMap) -> Span {
    let tool = headers
        .get(header::USER_AGENT)
        .and_then(|tool| tool.to_str().ok());
    info_span!(
        "request",
        otel.name = format!("{}/{}", called.service, called.method),
        otel.kind = "server",
        rpc.service = called.service,
        rpc.method = called.method,
        client.tool = tool,
        identity = Empty,
        code = Empty,
    )
}
