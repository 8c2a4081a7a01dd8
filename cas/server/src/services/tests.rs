//! Services behind a real server, called by generated clients.

mod action_cache;
mod byte_stream;
mod chunking;
mod content_addressable_storage;
mod remote_asset;

use std::sync::Arc;

use bitzel_access::PermissionSet;
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::decorators::completeness_checking_action_cache::CompletenessCheckingActionCache;
use bitzel_cas::media::memory_action_cache::MemoryActionCache;
use bitzel_cas::media::memory_blob_store::MemoryBlobStore;
use bitzel_cas::testing::sha256;
use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;
use bitzel_proto::reapi::GetCapabilitiesRequest;
use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_proto::{Digest, DigestFunction, reapi};
use bitzel_rpc::endpoint;
use bitzel_rpc::endpoint::Channel;
use bytes::Bytes;
use futures::Stream;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::server::Connected;

use super::*;

/// Server with all services, which ends with this value.
pub(crate) struct TestServer {
    pub(crate) endpoint: String,
    pub(crate) channel: Channel,
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) cache: Arc<dyn ActionCache>,
    _server: AbortOnDropHandle<()>,
    _socket: Option<TempDir>,
}

pub(crate) fn routes(store: &Arc<dyn BlobStore>, cache: &Arc<dyn ActionCache>) -> Routes {
    let assets = RemoteAssetService::new(complete(store, cache), Arc::clone(store));
    Routes::new(CapabilitiesService::new().with_execution().into_server())
        .add_service(
            ContentAddressableStorageService::new(Arc::clone(store))
                .with_chunk_mappings(complete(store, cache))
                .into_server(),
        )
        .add_service(ByteStreamService::new(Arc::clone(store)).into_server())
        .add_service(ActionCacheService::new(Arc::clone(cache), Arc::clone(store)).into_server())
        .add_service(assets.clone().into_fetch_server())
        .add_service(assets.into_push_server())
}

fn complete(store: &Arc<dyn BlobStore>, cache: &Arc<dyn ActionCache>) -> Arc<dyn ActionCache> {
    Arc::new(CompletenessCheckingActionCache::new(
        Arc::clone(cache),
        Arc::clone(store),
    ))
}

impl TestServer {
    /// Starts on TCP with stores in memory.
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(MemoryBlobStore::default())).await
    }

    pub(crate) async fn start_with(store: Arc<dyn BlobStore>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
        Self::serve(store, endpoint, TcpListenerStream::new(listener), None).await
    }

    /// Starts on a Unix socket with stores in memory.
    pub(crate) async fn start_on_socket() -> Self {
        let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let endpoint = format!("unix:{}", path.display());
        let connections = UnixListenerStream::new(listener);
        Self::serve(store, endpoint, connections, Some(directory)).await
    }

    async fn serve<I>(
        store: Arc<dyn BlobStore>,
        endpoint: String,
        connections: impl Stream<Item = std::io::Result<I>> + Send + 'static,
        socket: Option<TempDir>,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        I::ConnectInfo: Clone + Send + Sync,
    {
        let cache: Arc<dyn ActionCache> = Arc::new(MemoryActionCache::default());
        let server = endpoint::server().add_routes(routes(&store, &cache));
        let server = tokio::spawn(async move { server.serve_with_incoming(connections).await.unwrap() });
        let channel = endpoint::connect(&endpoint).await.unwrap();
        Self {
            endpoint,
            channel,
            store,
            cache,
            _server: AbortOnDropHandle::new(server),
            _socket: socket,
        }
    }

    /// Adds a blob to the store directly.
    pub(crate) async fn add(&self, blob: &[u8]) -> Digest {
        let digest = sha256(blob);
        let blob = Bytes::copy_from_slice(blob);
        let written = self.store.write_batch(vec![(digest, blob)]).await;
        written.into_iter().collect::<Result<(), _>>().unwrap();
        digest
    }
}

#[tokio::test]
async fn capabilities_announce_the_limits_of_the_services() {
    let server = TestServer::start_on_socket().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = GetCapabilitiesRequest {
        instance_name: "team/one".into(),
    };
    let capabilities = client.get_capabilities(request).await.unwrap().into_inner();
    let cache = capabilities.cache_capabilities.unwrap();
    assert_eq!(
        u64::try_from(cache.max_batch_total_size_bytes),
        Ok(MAX_BATCH_TOTAL_SIZE)
    );
    let sha256 = i32::from(reapi::digest_function::Value::Sha256);
    let blake3 = i32::from(reapi::digest_function::Value::Blake3);
    assert_eq!(cache.digest_functions, [sha256, blake3]);
    assert!(cache.action_cache_update_capabilities.unwrap().update_enabled);
    let execution = capabilities.execution_capabilities.unwrap();
    assert!(execution.exec_enabled);
    assert_eq!(execution.digest_function, sha256);
    assert_eq!(capabilities.low_api_version.unwrap().major, 2);
}

#[test]
fn announces_execution_only_if_asked_to() {
    let capabilities = CapabilitiesService::new().capabilities(PermissionSet::all());
    assert_eq!(capabilities.execution_capabilities, None);
    let capabilities = CapabilitiesService::new().with_execution();
    let all = capabilities.capabilities(PermissionSet::all());
    assert!(all.execution_capabilities.is_some());
}

#[test]
fn capabilities_follow_the_permissions_of_the_caller() {
    let capabilities = CapabilitiesService::new().with_execution();
    let read = capabilities.capabilities(PermissionSet::read());
    assert_eq!(read.execution_capabilities, None);
    let cache = read.cache_capabilities.unwrap();
    assert!(!cache.action_cache_update_capabilities.unwrap().update_enabled);
}

#[tokio::test]
async fn an_instance_name_with_a_keyword_is_an_invalid_argument() {
    let server = TestServer::start().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = GetCapabilitiesRequest {
        instance_name: "a/blobs".into(),
    };
    let status = client.get_capabilities(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}
