//! Server of a blob store and an action cache.

use std::sync::Arc;

use bitzel_cas::composition::store_factory::StoreFactory;
use bitzel_cas::media::disk_blob_store::Usage;
use bitzel_cas::{ActionCache, DiskActionCache, DiskBlobStore, InstanceBlobStores};
use futures::future::{BoxFuture, try_join_all};
use metrics::gauge;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::error::Error;
use crate::listener::Listener;
use crate::services::{
    self, ActionCacheService, ByteStreamService, CapabilitiesService, Chunking,
    ContentAddressableStorageService, RemoteAssetService,
};
use crate::stores::{SharedCache, StoreLayout, Stores};
use crate::tenants::Tenants;
use crate::upload_shares::UploadShares;

/// Settings of a [`CacheServer`].
#[derive(Clone)]
pub struct ServerConfig {
    /// The stores.
    pub stores: StoreLayout,
    /// Waits at the end until everything survives a power loss. This syncs the whole file system, which takes seconds
    /// after a build that wrote much. Without it, a power loss costs what is newer than the last index snapshot (five
    /// minutes of activity). The end of the process alone loses nothing.
    pub syncs: bool,
    /// Chunking of large blobs.
    pub chunking: Chunking,
    /// Remote cache that results are shared with, if there is one. Not with tenants.
    pub shared_cache: Option<SharedCache>,
    /// Tenants, which do not share blobs. `None` if all instances share them.
    pub tenants: Option<Tenants>,
}

impl ServerConfig {
    /// Serves these stores with the default settings: syncs at the end, chunks of 512 KiB, no shared cache, no tenants.
    pub fn new(stores: StoreLayout) -> Self {
        Self {
            stores,
            syncs: true,
            chunking: Chunking::default(),
            shared_cache: None,
            tenants: None,
        }
    }
}

/// Callback that sets gauges to their present values.
pub type Gauges = Box<dyn Fn() + Send + Sync>;

/// Further services on the listeners of a cache server.
pub struct Extension {
    /// Adds the services.
    pub add_services: Box<dyn FnOnce(Routes) -> Routes + Send>,
    /// Ends the work behind the services. The listeners wait for it, so that the streams of its clients end after its
    /// last results are recorded.
    pub shut_down: BoxFuture<'static, ()>,
}

/// Server of a blob store and an action cache, with the stores open.
pub struct CacheServer {
    config: ServerConfig,
    factory: StoreFactory,
    stores: Stores,
    upload_shares: Arc<UploadShares>,
}

impl CacheServer {
    /// Opens the stores. A shared cache and tenants together are refused.
    pub async fn open(mut config: ServerConfig) -> Result<Self, Error> {
        if config.shared_cache.is_some() && config.tenants.is_some() {
            return Err(Error::SharedCacheOfTenants);
        }
        let mut factory = StoreFactory::new(&config.stores.base);
        let blobs = factory.blobs(&config.stores.blobs).await?;
        let results = factory.results(&config.stores.results).await?;
        let (shared_cache, tenants) = (config.shared_cache.take(), config.tenants.take());
        let stores = Stores::new(blobs, results, shared_cache, tenants);
        // One of several stores on disk may get all uploads, if a client chooses the digests.
        let limits = factory.disk_stores().iter().map(|disk| disk.usage().limit_bytes);
        let upload_shares = limits
            .max()
            .map_or_else(UploadShares::unlimited, UploadShares::of_store);
        Ok(Self {
            config,
            factory,
            stores,
            upload_shares,
        })
    }

    /// The blob stores of the instances, behind the services.
    pub fn blobs(&self) -> InstanceBlobStores {
        self.stores.blobs.clone()
    }

    /// The action cache behind the services, in which results with missing blobs are not found.
    pub fn results(&self) -> Arc<dyn ActionCache> {
        Arc::clone(&self.stores.results)
    }

    /// Shares of the identities in the space for uploads.
    pub(crate) fn upload_shares(&self) -> Arc<UploadShares> {
        Arc::clone(&self.upload_shares)
    }

    /// Gauges of the stores on disks of this machine.
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

    /// Serves until `shutdown`, then closes the stores. With an extension, the server announces that it executes Actions.
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
        let (serving_status, health) = services::health::service();
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
            serving_status.stop();
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
        let mut capabilities = CapabilitiesService::new().with_chunking(self.config.chunking);
        if executes {
            capabilities = capabilities.with_execution();
        }
        let assets = RemoteAssetService::new(self.results(), self.blobs());
        Routes::new(capabilities.into_server())
            .add_service(
                ContentAddressableStorageService::new(self.blobs())
                    .with_chunking(self.config.chunking)
                    .with_chunk_mappings(self.results())
                    .into_server(),
            )
            .add_service(assets.clone().into_fetch_server())
            .add_service(assets.into_push_server())
            .add_service(
                ByteStreamService::new(self.blobs())
                    .with_shares(self.upload_shares())
                    .into_server(),
            )
            .add_service(ActionCacheService::new(self.results(), self.blobs()).into_server())
    }
}

/// Publishes the usage of disk stores under the name `store`.
#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn publish_usage(store: &'static str, usages: impl Iterator<Item = Usage>) {
    for (number, usage) in usages.enumerate() {
        // Usually there is one; further ones have a number in their name.
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
