//! Connections of the HTTP cache, and of other services over plain HTTP.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use bitzel_access::{Limits, PeerInfo, ServerAccess};
use bitzel_rpc::telemetry::ObservingLayer;
use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _};

use super::{HttpCacheService, request_drain};

/// Time that the header of a request may take. An idle connection is closed after this time, too.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// Time that transfers have to end when the server shuts down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 flow control window of a stream and of a connection.
const FLOW_CONTROL_WINDOW_BYTES: u32 = 4 << 20;

/// Choice between the versions of HTTP on one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.1. Clients that agree on HTTP/2 during the TLS handshake get that.
    Negotiated,
    /// Whatever the first bytes of a connection are.
    Detected,
}

/// Serves the HTTP cache on the connections of one listener until `ended`, behind the access control of `access`.
pub async fn serve<I>(
    service: HttpCacheService,
    access: ServerAccess,
    connections: impl Stream<Item = io::Result<I>>,
    ended: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Connected<ConnectInfo = PeerInfo> + Unpin + Send + 'static,
{
    let service = ServiceBuilder::new().layer(ObservingLayer::Http).service(
        ServiceBuilder::new()
            .layer(access.layer)
            .layer(access.limits_layer)
            .service(service),
    );
    serve_http(
        service,
        &access.limits,
        HttpVersions::Negotiated,
        connections,
        ended,
    )
    .await;
}

/// Serves plain HTTP on the connections of one listener until `ended`.
pub async fn serve_http<S, B, I>(
    service: S,
    limits: &Limits,
    versions: HttpVersions,
    connections: impl Stream<Item = io::Result<I>>,
    ended: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    I: AsyncRead + AsyncWrite + Connected<ConnectInfo = PeerInfo> + Unpin + Send + 'static,
{
    let builder = || {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .initial_stream_window_size(FLOW_CONTROL_WINDOW_BYTES)
            .initial_connection_window_size(FLOW_CONTROL_WINDOW_BYTES)
            .keep_alive_interval(HEADER_TIMEOUT);
        builder
    };
    let (http1, http2) = match versions {
        // A client that sends no bytes would be waited for without end, until its connection is closed.
        HttpVersions::Negotiated => (builder().http1_only(), builder().http2_only()),
        HttpVersions::Detected => (builder(), builder()),
    };
    let shutdown = GracefulShutdown::new();
    let mut connections = std::pin::pin!(connections);
    loop {
        let connection = tokio::select! {
            connection = connections.next() => connection,
            () = ended.cancelled() => break,
        };
        let Some(connection) = connection else {
            break;
        };
        let Ok(connection) = connection else {
            // Failures before the first byte are counted where connections are accepted.
            continue;
        };
        let peer = connection.connect_info();
        let builder = if peer.http2 { &http2 } else { &http1 };
        let service = service.clone();
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (mut request, drain) = request_drain::drainable(request);
            request.extensions_mut().insert(peer.clone());
            let response = service.clone().oneshot(request.map(Body::new));
            async move {
                let response = response.await?;
                drain.run(response.status().is_success()).await;
                Ok::<_, Infallible>(response)
            }
        });
        let serving = builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        let serving = shutdown.watch(serving.into_owned());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "an HTTP connection broke off");
            }
        });
    }
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, shutdown.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the server shuts down; transfers over HTTP were cut off");
    }
}
