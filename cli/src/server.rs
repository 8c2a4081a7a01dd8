//! The server, put together: store, action cache and execution behind one listener.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::access::{ServerAccess, incoming};
use bitzel_cas::disk_blob_store::Usage;
use bitzel_cas::services::http_cache::Spool;
use bitzel_cas::services::{
    self, ActionCacheService, ByteStreamService, CapabilitiesService, Chunking,
    ContentAddressableStorageService, HttpCacheService, Offer, RemoteAssetService,
};
use bitzel_cas::store_configuration::StoreConfiguration;
use bitzel_cas::store_factory::StoreFactory;
use bitzel_cas::telemetry::ObservingLayer;
use bitzel_cas::{
    ActionCache, AssistedBlobStore, BlobStore, CompletenessCheckingActionCache, DiskActionCache,
    DiskBlobStore, SharingActionCache, endpoint,
};
use bitzel_scheduler::execution::{ExecutionConfig, ExecutionServer, SystemClock};
use futures::Stream;
use futures::future::try_join_all;
use metrics::gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tower::util::MapResponseLayer;

use crate::admin::{AdminListener, Gauges};
use crate::command_error::CommandError;
use crate::local_action_source::LocalActionSource;
use crate::remote_cache::RemoteCache;

/// What a server keeps and does.
#[derive(Clone)]
pub(crate) struct ServerConfig {
    /// Where blobs and results are kept.
    pub(crate) stores: StoreLayout,
    /// Whether the end waits until everything survives a power loss. It costs a sync of the whole file system, seconds
    /// after a build that wrote much; without it, what is new since the last snapshot (five minutes of activity) has to
    /// be built again after a power loss. The end of the process alone loses nothing.
    pub(crate) syncs: bool,
    /// Whether it executes Actions; if not, it is a cache.
    pub(crate) executes: bool,
    /// How large blobs are cut.
    pub(crate) chunking: Chunking,
    /// Whom it shares results with.
    pub(crate) remote_cache: Option<RemoteCache>,
}

/// Stores before they are opened.
#[derive(Clone)]
pub(crate) struct StoreLayout {
    pub(crate) blobs: StoreConfiguration,
    pub(crate) results: StoreConfiguration,
    /// What relative paths are relative to.
    pub(crate) base: PathBuf,
}

impl StoreLayout {
    /// Both on this machine's disk; the store takes at most `size` bytes.
    pub(crate) fn in_directory(directory: &Path, size: u64) -> Self {
        Self {
            blobs: StoreConfiguration::disk("cas".into(), size),
            results: StoreConfiguration::disk("ac".into(), size),
            base: directory.to_owned(),
        }
    }
}

/// Where a server listens.
pub(crate) enum Listener {
    /// For other machines, or other users of this one, as far as they are let in.
    Tcp(TcpListener, ServerAccess),
    /// The same for clients of the HTTP cache, whose uploads of unknown digests wait in the spool.
    Http(TcpListener, ServerAccess, Spool),
    /// For this process; the directory of the socket says who may connect, and who does may do everything.
    Unix(UnixListener),
}

/// A server with its stores open.
pub(crate) struct Server {
    config: ServerConfig,
    factory: StoreFactory,
    stores: Stores,
    execution: ExecutionServer,
}

impl Server {
    /// Opens the stores.
    pub(crate) async fn open(mut config: ServerConfig) -> Result<Self, CommandError> {
        let hint = |error: bitzel_cas::Error| {
            CommandError::from(error).hint(format!(
                "one process at a time may use {}: build with --remote on a `bitzel serve`, or give --cache-dir",
                config.stores.base.display()
            ))
        };
        let mut factory = StoreFactory::new(&config.stores.base);
        let blobs = factory.blobs(&config.stores.blobs).await.map_err(hint)?;
        let results = factory.results(&config.stores.results).await.map_err(hint)?;
        let stores = Stores::new(blobs, results, config.remote_cache.take());
        let execution = ExecutionServer::new(
            Arc::clone(&stores.blobs),
            Arc::clone(&stores.results),
            ExecutionConfig::default(),
            Arc::new(SystemClock::default()),
        );
        Ok(Self {
            config,
            factory,
            stores,
            execution,
        })
    }

    /// This server as a worker in this process has it: without protocol or credentials in between.
    pub(crate) fn for_worker(&self) -> bitzel_worker::ServerConnection {
        bitzel_worker::ServerConnection {
            actions: Arc::new(LocalActionSource(self.execution.worker_queue.clone())),
            blobs: Arc::new(Arc::clone(&self.stores.blobs)),
        }
    }

    /// Serves until `shutdown`, then closes the stores. `admin` is where metrics are asked for, if anywhere.
    pub(crate) async fn run(
        self,
        listeners: Vec<Listener>,
        admin: Option<AdminListener>,
        shutdown: CancellationToken,
    ) -> Result<(), CommandError> {
        let Self {
            config,
            factory,
            stores,
            execution,
        } = self;
        let served = serve(&factory, &stores, execution, &config, listeners, admin, shutdown).await;
        if let Some(sharing) = stores.sharing {
            sharing.settled().await;
        }
        if config.syncs {
            factory.close().await?;
        }
        served
    }
}

/// What the services stand on.
struct Stores {
    blobs: Arc<dyn BlobStore>,
    results: Arc<dyn ActionCache>,
    /// What may still have something to give when the services have ended.
    sharing: Option<Arc<SharingActionCache>>,
}

impl Stores {
    fn new(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        remote_cache: Option<RemoteCache>,
    ) -> Self {
        let Some(remote) = remote_cache else {
            return Self::complete(blobs, results, None);
        };
        let sharing = SharingActionCache::taking(results, remote.results, Arc::clone(&remote.assistant));
        let assisted: Arc<dyn BlobStore> = Arc::new(AssistedBlobStore::new(
            blobs,
            Arc::clone(&remote.blobs),
            remote.assistant,
        ));
        let sharing = Arc::new(if remote.gives {
            sharing.giving(Arc::clone(&assisted), remote.blobs)
        } else {
            sharing
        });
        Self::complete(assisted, sharing.clone(), Some(sharing))
    }

    fn complete(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        sharing: Option<Arc<SharingActionCache>>,
    ) -> Self {
        Self {
            results: Arc::new(CompletenessCheckingActionCache::new(results, Arc::clone(&blobs))),
            blobs,
            sharing,
        }
    }
}

async fn serve(
    factory: &StoreFactory,
    stores: &Stores,
    execution: ExecutionServer,
    config: &ServerConfig,
    listeners: Vec<Listener>,
    admin: Option<AdminListener>,
    shutdown: CancellationToken,
) -> Result<(), CommandError> {
    let (store, cache) = (Arc::clone(&stores.blobs), Arc::clone(&stores.results));
    let background = execution.background;
    let gauges = execution.gauges;
    let admin = admin.map(|admin| {
        let (disk_stores, disk_caches) = (factory.disk_stores().to_vec(), factory.disk_caches().to_vec());
        let gauges: Gauges = Box::new(move || {
            gauges.publish();
            publish_usage("blobs", disk_stores.iter().map(DiskBlobStore::usage));
            publish_usage("actions", disk_caches.iter().map(DiskActionCache::usage));
        });
        AbortOnDropHandle::new(tokio::spawn(admin.serve(vec![gauges], shutdown.clone())))
    });
    let assets = RemoteAssetService::new(Arc::clone(&cache), Arc::clone(&store), true);
    let (serving, health) = services::health::service();
    let capabilities = CapabilitiesService::new(Offer {
        execution: config.executes,
        action_cache_updates: true,
    })
    .with_chunking(config.chunking);
    let mut routes = Routes::new(capabilities.into_server())
        .add_service(
            ContentAddressableStorageService::new(Arc::clone(&store))
                .with_chunking(config.chunking)
                .with_chunk_mappings(Arc::clone(&cache))
                .into_server(),
        )
        .add_service(health)
        .add_service(services::reflection::service()?)
        .add_service(assets.clone().into_fetch_server())
        .add_service(assets.into_push_server())
        .add_service(ByteStreamService::new(Arc::clone(&store)).into_server())
        .add_service(ActionCacheService::new(Arc::clone(&cache), Arc::clone(&store), true).into_server());
    if config.executes {
        routes = routes
            .add_service(execution.execution.into_server())
            .add_service(execution.worker_queue.into_server());
    }
    // Results that workers hand over are recorded before the listeners wait for their streams to end.
    let recorded = CancellationToken::new();
    let ending = {
        let recorded = recorded.clone();
        async move {
            shutdown.cancelled().await;
            serving.stop();
            background.shut_down().await;
            recorded.cancel();
            Ok(())
        }
    };
    let listening = listeners.into_iter().map(|listener| {
        let (routes, recorded) = (routes.clone(), recorded.clone());
        let (cache, store) = (Arc::clone(&cache), Arc::clone(&store));
        async move {
            match listener {
                Listener::Tcp(listener, access) => {
                    let connections = incoming(listener, access.tls.clone(), access.limits.connections);
                    listen(routes, access, connections, recorded).await
                }
                Listener::Http(listener, access, spool) => {
                    let http = HttpCacheService::new(cache, store, spool);
                    let connections = incoming(listener, access.tls.clone(), access.limits.connections);
                    services::http_cache::serve(http, access, connections, recorded).await;
                    Ok(())
                }
                Listener::Unix(listener) => {
                    let connections = UnixListenerStream::new(listener);
                    listen(routes, ServerAccess::open(), connections, recorded).await
                }
            }
        }
    });
    let listening = async {
        try_join_all(listening).await?;
        Ok::<_, CommandError>(())
    };
    tokio::try_join!(listening, ending)?;
    drop(admin);
    Ok(())
}

/// Serves what comes in at one listener until `ended`.
async fn listen<I>(
    routes: Routes,
    access: ServerAccess,
    connections: impl Stream<Item = std::io::Result<I>>,
    ended: CancellationToken,
) -> Result<(), CommandError>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    endpoint::server()
        .max_concurrent_streams(access.limits.streams_per_connection)
        .layer(MapResponseLayer::new(endpoint::small_frames))
        .layer(ObservingLayer::Grpc)
        .layer(access.layer)
        .layer(access.limits_layer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, ended.cancelled_owned())
        .await?;
    Ok(())
}

/// What a store on disk holds, by name of the store.
#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn publish_usage(store: &'static str, usages: impl Iterator<Item = Usage>) {
    for (number, usage) in usages.enumerate() {
        // Mostly there is one; of several, the others have a number.
        let store = match number {
            0 => store.to_owned(),
            number => format!("{store}-{number}"),
        };
        let gauges = [
            ("bitzel_store_blobs", usage.blobs),
            ("bitzel_store_bytes", usage.bytes),
            ("bitzel_store_reserved_bytes", usage.reserved_bytes),
            ("bitzel_store_limit_bytes", usage.limit_bytes),
            ("bitzel_store_corrupt_blobs", usage.corrupt_blobs),
        ];
        for (name, value) in gauges {
            gauge!(name, "store" => store.clone()).set(value as f64);
        }
    }
}
