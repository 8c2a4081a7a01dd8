//! Action caches of a configuration.

use std::sync::Arc;

use async_trait::async_trait;

use super::connections::{bucket, channel, http_cache};
use super::store_family::{OpenedStores, StoreFamily};
use crate::composition::store_configuration::{
    DeadlineTable, DiskTable, ExistenceCachingTable, GrpcTable, HttpTable, MeteredTable, MirroredTable,
    S3Table, TieredTable,
};
use crate::error::Error;
use crate::{
    ActionCache, DeadlineActionCache, DiskActionCache, HttpActionCache, MemoryActionCache,
    MeteredActionCache, MirroredActionCache, OneSideDown, ReadOnlyActionCache, RemoteActionCache,
    S3ActionCache, Shard, ShardedActionCache, TieredActionCache,
};

type Cache = Arc<dyn ActionCache>;

/// Opens action caches.
pub(super) struct ActionCaches;

#[async_trait]
impl StoreFamily for ActionCaches {
    type Store = dyn ActionCache;

    fn memory() -> Cache {
        Arc::new(MemoryActionCache::default())
    }

    async fn disk(table: &DiskTable, opened: &mut OpenedStores) -> Result<Cache, Error> {
        let directory = opened.base.join(table.directory.get_ref());
        let cache = DiskActionCache::open(&directory, table.max_results).await?;
        opened.disk_caches.push(cache.clone());
        Ok(Arc::new(cache))
    }

    async fn grpc(table: &GrpcTable, opened: &OpenedStores) -> Result<Cache, Error> {
        let channel = channel(table, &opened.base).await?;
        Ok(Arc::new(RemoteActionCache::new(channel)))
    }

    fn http(table: &HttpTable, opened: &OpenedStores) -> Result<Cache, Error> {
        Ok(Arc::new(HttpActionCache::new(http_cache(table, &opened.base)?)))
    }

    async fn s3(table: &S3Table) -> Result<Cache, Error> {
        Ok(Arc::new(S3ActionCache::new(bucket(table).await?)))
    }

    /// Results are always written through.
    async fn tiered(_: &TieredTable, fast: Cache, slow: Cache, _: &OpenedStores) -> Result<Cache, Error> {
        Ok(Arc::new(TieredActionCache::new(fast, slow)))
    }

    fn read_only(inner: Cache) -> Cache {
        Arc::new(ReadOnlyActionCache::new(inner))
    }

    /// For blobs only, which `Problems` reports.
    fn existence_caching(_: &ExistenceCachingTable, inner: Cache) -> Cache {
        inner
    }

    fn sharded(shards: Vec<Shard<dyn ActionCache>>) -> Result<Cache, Error> {
        Ok(Arc::new(ShardedActionCache::new(shards)?))
    }

    fn mirrored(table: &MirroredTable, one: Cache, other: Cache) -> Cache {
        let policy = OneSideDown::degrade_if(table.degrade);
        Arc::new(MirroredActionCache::new(one, other, policy))
    }

    fn metered(table: &MeteredTable, inner: Cache) -> Cache {
        Arc::new(MeteredActionCache::new(table.name.clone(), inner))
    }

    fn deadline(table: &DeadlineTable, inner: Cache) -> Cache {
        Arc::new(DeadlineActionCache::new(inner, table.call))
    }
}
