//! Server of a blob store and an action cache.

use std::sync::Arc;

use bitzel_cas::composition::store_factory::StoreFactory;
use bitzel_cas::media::disk_blob_store::Usage;
use bitzel_cas::{ActionCache, BlobStore, DiskActionCache, DiskBlobStore};
use futures::future::{BoxFuture, try_join_all};
use metrics::gauge;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::error::Error;
use crate::listener::Listener;
use crate::services::{
    self, ActionCacheService, ByteStreamService, CapabilitiesService, Chunking,
    ContentAddressableStorageService, Offer, RemoteAssetService,
};
use crate::stores::{SharedCache, StoreLayout, Stores};

/// Settings of a server.
#[derive(Clone)]
pub struct ServerConfig {
    /// The stores.
    pub stores: StoreLayout,
    /// Waits at the end until everything survives a power loss. It costs a sync of the whole file system, seconds after
    /// a build that wrote much; without it, what is new since the last snapshot (five minutes of activity) has to be
    /// built again after a power loss. The end of the process alone loses nothing.
    pub syncs: bool,
    /// Cuts of large blobs.
    pub chunking: Chunking,
    /// Remote cache that results are shared with.
    pub shared_cache: Option<SharedCache>,
}

/// Callback that sets gauges to the values of this moment.
pub type Gauges = Box<dyn Fn() + Send + Sync>;

/// Services beside those of the cache, on the same listeners.
pub struct Extension {
    /// Adds the services.
    pub add_services: Box<dyn FnOnce(Routes) -> Routes + Send>,
    /// Ends the work behind them. The listeners wait for it, so that what it still records is recorded before the streams
    /// of its clients end.
    pub shut_down: BoxFuture<'static, ()>,
}

/// Server with its stores open.
pub struct Server {
    config: ServerConfig,
    factory: StoreFactory,
    stores: Stores,
}

impl Server {
    /// Opens the stores.
    pub async fn open(mut config: ServerConfig) -> Result<Self, Error> {
        let mut factory = StoreFactory::new(&config.stores.base);
        let blobs = factory.blobs(&config.stores.blobs).await?;
        let results = factory.results(&config.stores.results).await?;
        let stores = Stores::new(blobs, results, config.shared_cache.take());
        Ok(Self {
            config,
            factory,
            stores,
        })
    }

    /// The blob store as the services see it.
    pub fn blobs(&self) -> Arc<dyn BlobStore> {
        Arc::clone(&self.stores.blobs)
    }

    /// The action cache as the services see it: results whose blobs are missing are not found.
    pub fn results(&self) -> Arc<dyn ActionCache> {
        Arc::clone(&self.stores.results)
    }

    /// Gauges of the stores on this machine's disks.
    pub fn gauges(&self) -> Gauges {
        let (stores, caches) = (
            self.factory.disk_stores().to_vec(),
            self.factory.disk_caches().to_vec(),
        );
        Box::new(move || {
            publish_usage("blobs", stores.iter().map(DiskBlobStore::usage));
            publish_usage("actions", caches.iter().map(DiskActionCache::usage));
        })
    }

    /// Serves until `shutdown`, then closes the stores. A server with an extension announces that it executes Actions.
    pub async fn run(
        self,
        listeners: Vec<Listener>,
        extension: Option<Extension>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let served = self.serve(listeners, extension, shutdown).await;
        if let Some(sharing) = self.stores.sharing {
            sharing.settled().await;
        }
        if self.config.syncs {
            self.factory.close().await?;
        }
        served
    }

    async fn serve(
        &self,
        listeners: Vec<Listener>,
        extension: Option<Extension>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let (serving, health) = services::health::service();
        let executes = extension.is_some();
        let mut routes = self
            .cache_services(executes)
            .add_service(health)
            .add_service(services::reflection::service()?);
        let mut shut_down = None;
        if let Some(extension) = extension {
            routes = (extension.add_services)(routes);
            shut_down = Some(extension.shut_down);
        }
        let ended = CancellationToken::new();
        let ending = async {
            shutdown.cancelled().await;
            serving.stop();
            if let Some(shut_down) = shut_down {
                shut_down.await;
            }
            ended.cancel();
            Ok(())
        };
        let listening = listeners
            .into_iter()
            .map(|listener| listener.serve(routes.clone(), self, ended.clone()));
        let listening = async {
            try_join_all(listening).await?;
            Ok::<_, Error>(())
        };
        tokio::try_join!(listening, ending)?;
        Ok(())
    }

    fn cache_services(&self, executes: bool) -> Routes {
        let capabilities = CapabilitiesService::new(Offer {
            execution: executes,
            action_cache_updates: true,
        })
        .with_chunking(self.config.chunking);
        let assets = RemoteAssetService::new(self.results(), self.blobs(), true);
        Routes::new(capabilities.into_server())
            .add_service(
                ContentAddressableStorageService::new(self.blobs())
                    .with_chunking(self.config.chunking)
                    .with_chunk_mappings(self.results())
                    .into_server(),
            )
            .add_service(assets.clone().into_fetch_server())
            .add_service(assets.into_push_server())
            .add_service(ByteStreamService::new(self.blobs()).into_server())
            .add_service(ActionCacheService::new(self.results(), self.blobs(), true).into_server())
    }
}

/// Publishes the usage of stores on disk under the name of the store.
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
