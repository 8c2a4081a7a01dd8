//! Factory of the stores that a [`StoreConfiguration`] describes.

mod action_caches;
mod blob_stores;
mod connections;
mod store_family;

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::action_cache::ActionCache;
use crate::blob_store::BlobStore;
use crate::composition::store_configuration::StoreConfiguration;
use crate::error::Error;
use crate::{DiskActionCache, DiskBlobStore, Shard};

use action_caches::ActionCaches;
use blob_stores::BlobStores;
use store_family::{OpenedStores, StoreFamily};

/// Opens stores, and closes those on disk. Relative paths are relative to one directory.
#[derive(Default)]
pub struct StoreFactory {
    opened: OpenedStores,
}

impl StoreFactory {
    /// A factory for a configuration in the directory `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        Self {
            opened: OpenedStores {
                base,
                ..OpenedStores::default()
            },
        }
    }

    /// The blob stores on the disks of this machine that were opened so far.
    pub fn disk_stores(&self) -> &[DiskBlobStore] {
        &self.opened.disk_stores
    }

    /// The action caches on the disks of this machine that were opened so far.
    pub fn disk_caches(&self) -> &[DiskActionCache] {
        &self.opened.disk_caches
    }

    /// Makes the stores on disk survive a power loss, and ends all writes to them. Action caches first, because their
    /// results name blobs.
    pub async fn close(self) -> Result<(), Error> {
        for cache in &self.opened.disk_caches {
            cache.close().await?;
        }
        for store in &self.opened.disk_stores {
            store.close().await?;
        }
        Ok(())
    }

    /// Opens a blob store. It accepts and serves correct blobs only: each kind that keeps blobs verifies them.
    pub async fn blobs(&mut self, configuration: &StoreConfiguration) -> Result<Arc<dyn BlobStore>, Error> {
        self.open::<BlobStores>(configuration).await
    }

    /// Opens an action cache.
    pub async fn results(
        &mut self,
        configuration: &StoreConfiguration,
    ) -> Result<Arc<dyn ActionCache>, Error> {
        self.open::<ActionCaches>(configuration).await
    }

    /// Opens a store and those below it.
    fn open<'a, F: StoreFamily>(
        &'a mut self,
        configuration: &'a StoreConfiguration,
    ) -> BoxFuture<'a, Result<Arc<F::Store>, Error>> {
        Box::pin(async move {
            Ok(match configuration {
                StoreConfiguration::Memory {} => F::memory(),
                StoreConfiguration::Disk(table) => F::disk(table, &mut self.opened).await?,
                StoreConfiguration::Grpc(table) => F::grpc(table, &self.opened).await?,
                StoreConfiguration::Http(table) => F::http(table, &self.opened)?,
                StoreConfiguration::S3(table) => F::s3(table).await?,
                // An alias of its inner store, kept for older configurations: each kind that keeps blobs verifies them.
                StoreConfiguration::Verifying(table) => self.open::<F>(&table.inner).await?,
                StoreConfiguration::Tiered(table) => {
                    let fast = self.open::<F>(&table.fast).await?;
                    let slow = self.open::<F>(&table.slow).await?;
                    F::tiered(table, fast, slow, &self.opened).await?
                }
                StoreConfiguration::ReadOnly(table) => F::read_only(self.open::<F>(&table.inner).await?),
                StoreConfiguration::ExistenceCaching(table) => {
                    F::existence_caching(table, self.open::<F>(&table.inner).await?)
                }
                StoreConfiguration::Sharded(table) => {
                    let mut shards = Vec::new();
                    for shard in table.shards.get_ref() {
                        shards.push(Shard {
                            name: shard.name.get_ref().clone(),
                            weight: shard.weight,
                            store: self.open::<F>(&shard.store).await?,
                        });
                    }
                    F::sharded(shards)?
                }
                StoreConfiguration::Mirrored(table) => {
                    let one = self.open::<F>(&table.one).await?;
                    let other = self.open::<F>(&table.other).await?;
                    F::mirrored(table, one, other)
                }
                StoreConfiguration::Metered(table) => F::metered(table, self.open::<F>(&table.inner).await?),
                StoreConfiguration::Deadline(table) => {
                    F::deadline(table, self.open::<F>(&table.inner).await?)
                }
            })
        })
    }
}
