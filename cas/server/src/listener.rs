//! Listeners of a server.

use bitzel_access::{ServerAccess, incoming};
use bitzel_rpc::endpoint;
use bitzel_rpc::telemetry::ObservingLayer;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tower::util::MapResponseLayer;

use crate::cache_server::CacheServer;
use crate::error::Error;
use crate::http_cache::{self, HttpCacheService, Spool};

/// Socket that a server listens on, with the access control of its callers.
pub enum Listener {
    /// gRPC for other machines, or other users of this one.
    Tcp(TcpListener, ServerAccess),
    /// HTTP cache, which keeps uploads with unknown digests in the spool until they end.
    Http(TcpListener, ServerAccess, Spool),
    /// gRPC for users of this machine: the permissions of the socket decide who connects, and every caller may do
    /// everything.
    Unix(UnixListener),
}

impl Listener {
    /// Serves connections until `ended`.
    pub(crate) async fn serve(
        self,
        routes: Routes,
        server: &CacheServer,
        ended: CancellationToken,
    ) -> Result<(), Error> {
        match self {
            Self::Tcp(listener, access) => {
                let connections = incoming(listener, access.tls.clone(), &access.limits);
                serve_grpc(routes, access, connections, ended).await
            }
            Self::Http(listener, access, spool) => {
                let service = HttpCacheService::new(server.results(), server.blobs(), spool)
                    .with_shares(server.upload_shares());
                let connections = incoming(listener, access.tls.clone(), &access.limits);
                http_cache::serve(service, access, connections, ended).await;
                Ok(())
            }
            Self::Unix(listener) => {
                let connections = UnixListenerStream::new(listener);
                serve_grpc(routes, ServerAccess::open(), connections, ended).await
            }
        }
    }
}

async fn serve_grpc<I>(
    routes: Routes,
    access: ServerAccess,
    connections: impl Stream<Item = std::io::Result<I>>,
    ended: CancellationToken,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    endpoint::server()
        .max_concurrent_streams(access.limits.streams_per_connection)
        .layer(MapResponseLayer::new(endpoint::small_frames))
        .layer(ObservingLayer::Grpc)
        .layer(MapResponseLayer::new(endpoint::malformed_requests))
        .layer(access.layer)
        .layer(access.limits_layer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, ended.cancelled_owned())
        .await?;
    Ok(())
}
