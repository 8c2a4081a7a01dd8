//! Layer that observes all requests of a server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bitzel_proto::reapi::RequestMetadata;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tonic::Code;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument as _, Level, Span, info_span, span_enabled};

use super::called_method::CalledMethod;
use super::http_request;
use super::observed_body::{Observation, ObservedBody};
use super::request_metadata::request_metadata;
use super::trace_context::continue_trace;

/// Gives every request of the services below a span that joins the client's trace, a log line and metrics. The protocol
/// decides how method and status are read. `docs/decisions/0034` says why this is not the trace layer of tower-http.
#[derive(Debug, Clone, Copy)]
pub enum ObservingLayer {
    /// gRPC services, under their names.
    Grpc,
    /// The HTTP cache, under the service `HttpCache` and methods like `GetBlob`. Statuses are called as in gRPC, so that
    /// one query finds both.
    Http,
}

impl<S> Layer<S> for ObservingLayer {
    type Service = Observing<S>;

    fn layer(&self, inner: S) -> Observing<S> {
        Observing {
            inner,
            protocol: *self,
        }
    }
}

/// Service that [`ObservingLayer`] observes.
#[derive(Debug, Clone)]
pub struct Observing<S> {
    inner: S,
    protocol: ObservingLayer,
}

impl<S, B, C> Service<Request<B>> for Observing<S>
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
        let protocol = self.protocol;
        let called = protocol.called(request.method(), request.uri().path());
        // Clients describe themselves in every request; the description is only decoded if a subscriber reads it.
        let span = if span_enabled!(Level::INFO) {
            let span = protocol.span(&called, request.headers());
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
                        protocol.record_status(&response, &mut observation);
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

impl ObservingLayer {
    fn called(self, method: &Method, path: &str) -> CalledMethod {
        match self {
            Self::Grpc => CalledMethod::parse(path),
            Self::Http => http_request::called(method, path),
        }
    }

    fn span(self, called: &CalledMethod, headers: &HeaderMap) -> Span {
        match self {
            Self::Grpc => span(called, request_metadata(headers).unwrap_or_default()),
            Self::Http => http_request::span(called, headers),
        }
    }

    fn record_status<C>(self, response: &Response<C>, observation: &mut Observation) {
        match self {
            // A response without messages has its status in the headers.
            Self::Grpc => observation.read_grpc_status(response.headers()),
            Self::Http => observation.set_code_of_complete_response(http_request::code(response.status())),
        }
    }
}

/// Span of a request. `identity` is recorded by the layer that authenticates the client, `code` when it is known.
fn span(called: &CalledMethod, client: RequestMetadata) -> Span {
    let tool = client.tool_details.unwrap_or_default();
    info_span!(
        "request",
        otel.name = format!("{}/{}", called.service, called.method),
        otel.kind = "server",
        rpc.service = called.service,
        rpc.method = called.method,
        client.tool = tool.tool_name,
        client.version = tool.tool_version,
        client.invocation = client.tool_invocation_id,
        client.action = client.action_id,
        client.target = client.target_id,
        client.mnemonic = client.action_mnemonic,
        identity = Empty,
        code = Empty,
    )
}
