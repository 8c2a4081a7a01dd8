//! Connections of the HTTP cache.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use bitzel_access::{PeerInfo, ServerAccess};
use bitzel_rpc::telemetry::ObservingLayer;
use futures::{Stream, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::{ServiceBuilder, ServiceExt as _};

use super::{HttpCacheService, request_drain};

/// Time that the header of a request may take. An idle connection is closed after this time, too.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// Time that transfers have to end when the server shuts down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 flow control window of a stream and of a connection.
const FLOW_CONTROL_WINDOW_BYTES: u32 = 4 << 20;

/// Serves the connections of one listener until `ended`, behind the access control of `access`.
///
/// HTTP/1.1 is the protocol; clients that agree on HTTP/2 during the TLS handshake get that.
pub async fn serve<I>(
    service: HttpCacheService,
    access: ServerAccess,
    connections: impl Stream<Item = io::Result<I>>,
    ended: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Connected<ConnectInfo = PeerInfo> + Unpin + Send + 'static,
{
    let service = ServiceBuilder::new()
        .layer(ObservingLayer::Http)
        .layer(access.layer)
        .layer(access.limits_layer)
        .service(service);
    // The protocol is not detected by the first bytes: a client that sends none would be waited for without end.
    let mut http1 = Builder::new(TokioExecutor::new()).http1_only();
    http1
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let mut http2 = Builder::new(TokioExecutor::new()).http2_only();
    http2
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(access.limits.streams_per_connection)
        .initial_stream_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .initial_connection_window_size(FLOW_CONTROL_WINDOW_BYTES)
        .keep_alive_interval(HEADER_TIMEOUT);
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
                tracing::debug!(%error, "a connection of the HTTP cache broke off");
            }
        });
    }
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, shutdown.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the server shuts down; transfers of the HTTP cache were cut off");
    }
}
