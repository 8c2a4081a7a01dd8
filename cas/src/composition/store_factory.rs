//! Opens what a [`StoreConfiguration`] describes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_proto::InstanceName;
use bytesize::ByteSize;
use futures::future::BoxFuture;

use crate::action_cache::ActionCache;
use crate::blob_store::BlobStore;
use crate::composition::store_configuration::{
    GrpcTable, HttpTable, S3Table, ShardTable, StoreConfiguration, WriteBackTable,
};
use crate::error::Error;
use crate::{
    DeadlineActionCache, DeadlineBlobStore, DeadlineOptions, DigestRememberingBlobStore, DiskActionCache,
    DiskBlobStore, DiskBlobStoreOptions, ExistenceCachingBlobStore, ExistenceCachingOptions, HttpActionCache,
    HttpBlobStore, HttpCache, HttpCacheOptions, HttpCredentials, MemoryActionCache, MemoryBlobStore,
    MeteredActionCache, MeteredBlobStore, MirroredActionCache, MirroredBlobStore, OneSideDown,
    ReadOnlyActionCache, ReadOnlyBlobStore, RemoteActionCache, RemoteBlobStore, RemoteBlobStoreOptions,
    S3ActionCache, S3BlobStore, S3Bucket, S3Options, Shard, ShardedActionCache, ShardedBlobStore,
    TieredActionCache, TieredBlobStore, VerifyingBlobStore, WriteBackOptions, Writes,
};
use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};

/// Opens stores, and remembers what has to be closed. Everything relative is relative to `base`.
#[derive(Default)]
pub struct StoreFactory {
    base: PathBuf,
    disk_stores: Vec<DiskBlobStore>,
    disk_caches: Vec<DiskActionCache>,
}

impl StoreFactory {
    /// For a configuration in the directory `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self {
            base: base.into(),
            ..Self::default()
        }
    }

    /// The stores on this machine's disks that were opened so far.
    pub fn disk_stores(&self) -> &[DiskBlobStore] {
        &self.disk_stores
    }

    /// The action caches on this machine's disks that were opened so far.
    pub fn disk_caches(&self) -> &[DiskActionCache] {
        &self.disk_caches
    }

    /// Makes what is on disk survive a power loss. Nothing can be written from here on. Results first: they name blobs.
    pub async fn close(self) -> Result<(), Error> {
        for cache in &self.disk_caches {
            cache.close().await?;
        }
        for store in &self.disk_stores {
            store.close().await?;
        }
        Ok(())
    }

    /// Opens a store of blobs, which takes and gives right ones only: every store that others are made of checks, and none
    /// of the decorators has to do it again.
    pub fn blobs<'a>(
        &'a mut self,
        configuration: &'a StoreConfiguration,
    ) -> BoxFuture<'a, Result<Arc<dyn BlobStore>, Error>> {
        Box::pin(async move {
            let store: Arc<dyn BlobStore> = match configuration {
                StoreConfiguration::Memory {} => Arc::new(MemoryBlobStore::default()),
                StoreConfiguration::Disk(table) => {
                    let options = DiskBlobStoreOptions {
                        limit_bytes: table.size.unwrap_or(ByteSize::gib(50)).as_u64(),
                        free_space_floor_bytes: table.free_space.as_u64(),
                        compress: table.compress,
                    };
                    let store =
                        DiskBlobStore::open(&self.base.join(table.directory.get_ref()), options).await?;
                    self.disk_stores.push(store.clone());
                    Arc::new(store)
                }
                StoreConfiguration::Grpc(table) => {
                    let options = RemoteBlobStoreOptions {
                        compression: table.compression,
                    };
                    let instance = InstanceName::new(table.instance.clone())
                        .map_err(|error| Error::InvalidArgument(error.to_string()))?;
                    let remote =
                        RemoteBlobStore::connect_with(self.channel(table).await?, instance, options).await?;
                    // By itself it checks what it reads, not what it sends.
                    let verifying = VerifyingBlobStore::new(Arc::new(remote));
                    Arc::new(DigestRememberingBlobStore::new(Arc::new(verifying)))
                }
                StoreConfiguration::Http(table) => Arc::new(HttpBlobStore::new(self.http(table)?)),
                StoreConfiguration::S3(table) => Arc::new(S3BlobStore::new(bucket(table).await?)),
                StoreConfiguration::Verifying(table) => {
                    Arc::new(VerifyingBlobStore::new(self.blobs(&table.inner).await?))
                }
                StoreConfiguration::Tiered(table) => {
                    let fast = self.blobs(&table.fast).await?;
                    let slow = self.blobs(&table.slow).await?;
                    Arc::new(match &table.write_back {
                        None => TieredBlobStore::write_through(fast, slow),
                        Some(options) => {
                            TieredBlobStore::write_back(fast, slow, write_back(&self.base, options)).await?
                        }
                    })
                }
                StoreConfiguration::ReadOnly(table) => Arc::new(ReadOnlyBlobStore::new(
                    self.blobs(&table.inner).await?,
                    Writes::Refuse,
                )),
                StoreConfiguration::ExistenceCaching(table) => {
                    let options = ExistenceCachingOptions {
                        max_entries: table.max_entries,
                        max_age: table.max_age,
                    };
                    Arc::new(ExistenceCachingBlobStore::new(
                        self.blobs(&table.inner).await?,
                        options,
                    ))
                }
                StoreConfiguration::Sharded(table) => {
                    let mut shards = Vec::new();
                    for shard in table.shards.get_ref() {
                        shards.push(named(shard, self.blobs(&shard.store).await?));
                    }
                    Arc::new(ShardedBlobStore::new(shards)?)
                }
                StoreConfiguration::Mirrored(table) => {
                    let one = self.blobs(&table.one).await?;
                    let other = self.blobs(&table.other).await?;
                    Arc::new(MirroredBlobStore::new(one, other, one_side_down(table.degrade)))
                }
                StoreConfiguration::Metered(table) => Arc::new(MeteredBlobStore::new(
                    table.name.clone(),
                    self.blobs(&table.inner).await?,
                )),
                StoreConfiguration::Deadline(table) => {
                    let options = DeadlineOptions {
                        call: table.call,
                        progress: table.progress,
                        ..DeadlineOptions::default()
                    };
                    Arc::new(DeadlineBlobStore::new(self.blobs(&table.inner).await?, options))
                }
            };
            Ok(store)
        })
    }

    /// Opens an action cache.
    pub fn results<'a>(
        &'a mut self,
        configuration: &'a StoreConfiguration,
    ) -> BoxFuture<'a, Result<Arc<dyn ActionCache>, Error>> {
        Box::pin(async move {
            let cache: Arc<dyn ActionCache> = match configuration {
                StoreConfiguration::Memory {} => Arc::new(MemoryActionCache::default()),
                StoreConfiguration::Disk(table) => {
                    let directory = self.base.join(table.directory.get_ref());
                    let cache = DiskActionCache::open(&directory, table.max_results).await?;
                    self.disk_caches.push(cache.clone());
                    Arc::new(cache)
                }
                StoreConfiguration::Grpc(table) => {
                    Arc::new(RemoteActionCache::new(self.channel(table).await?))
                }
                StoreConfiguration::Http(table) => Arc::new(HttpActionCache::new(self.http(table)?)),
                StoreConfiguration::S3(table) => Arc::new(S3ActionCache::new(bucket(table).await?)),
                // They have a meaning for blobs only, which `Problems` has said.
                StoreConfiguration::Verifying(table) => self.results(&table.inner).await?,
                StoreConfiguration::ExistenceCaching(table) => self.results(&table.inner).await?,
                StoreConfiguration::Tiered(table) => {
                    let fast = self.results(&table.fast).await?;
                    Arc::new(TieredActionCache::new(fast, self.results(&table.slow).await?))
                }
                StoreConfiguration::ReadOnly(table) => Arc::new(ReadOnlyActionCache::new(
                    self.results(&table.inner).await?,
                    Writes::Refuse,
                )),
                StoreConfiguration::Sharded(table) => {
                    let mut shards = Vec::new();
                    for shard in table.shards.get_ref() {
                        shards.push(named(shard, self.results(&shard.store).await?));
                    }
                    Arc::new(ShardedActionCache::new(shards)?)
                }
                StoreConfiguration::Mirrored(table) => {
                    let one = self.results(&table.one).await?;
                    let other = self.results(&table.other).await?;
                    Arc::new(MirroredActionCache::new(one, other, one_side_down(table.degrade)))
                }
                StoreConfiguration::Metered(table) => Arc::new(MeteredActionCache::new(
                    table.name.clone(),
                    self.results(&table.inner).await?,
                )),
                StoreConfiguration::Deadline(table) => Arc::new(DeadlineActionCache::new(
                    self.results(&table.inner).await?,
                    table.call,
                )),
            };
            Ok(cache)
        })
    }

    async fn channel(&self, table: &GrpcTable) -> Result<Channel, Error> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| self.base.join(path));
        let credentials = ClientCredentials {
            ca: path(&table.tls_ca),
            certificate: path(&table.tls_certificate).zip(path(&table.tls_key)),
            token_file: path(&table.token_file),
            password: None,
        };
        Ok(endpoint::connect_with(table.endpoint.get_ref(), &credentials).await?)
    }

    fn http(&self, table: &HttpTable) -> Result<Arc<HttpCache>, Error> {
        let mut options = HttpCacheOptions::new(table.url.get_ref());
        if let Some(path) = &table.token_file {
            let path = self.base.join(path);
            let token = std::fs::read_to_string(&path)
                .map_err(Error::io(format!("cannot read the token in {}", path.display())))?;
            options.credentials = HttpCredentials::Bearer(token.trim().to_owned());
        }
        HttpCache::new(options)
    }
}

async fn bucket(table: &S3Table) -> Result<Arc<S3Bucket>, Error> {
    let endpoint = table.endpoint.as_ref().map(|endpoint| endpoint.get_ref().clone());
    S3Bucket::open(S3Options {
        prefix: table.prefix.clone(),
        // Servers other than Amazon's want the bucket in the path.
        force_path_style: endpoint.is_some(),
        endpoint,
        region: table.region.clone(),
        renew_after: table.renew_after,
        ..S3Options::new(&table.bucket)
    })
    .await
}

fn write_back(base: &Path, table: &WriteBackTable) -> WriteBackOptions {
    WriteBackOptions {
        directory: base.join(table.directory.get_ref()),
        max_blobs: table.max_blobs,
        max_bytes: table.max_size.get_ref().as_u64(),
        concurrency: table.concurrency,
    }
}

fn named<T: ?Sized>(shard: &ShardTable, store: Arc<T>) -> Shard<T> {
    Shard {
        name: shard.name.get_ref().clone(),
        weight: shard.weight,
        store,
    }
}

fn one_side_down(degrade: bool) -> OneSideDown {
    if degrade {
        OneSideDown::Degrade
    } else {
        OneSideDown::Refuse
    }
}
