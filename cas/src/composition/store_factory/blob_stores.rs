//! Blob stores of a configuration.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::InstanceName;
use bytesize::ByteSize;

use super::connections::{bucket, channel, http_cache};
use super::store_family::{OpenedStores, StoreFamily};
use crate::composition::store_configuration::{
    DeadlineTable, DiskTable, ExistenceCachingTable, GrpcTable, HttpTable, MeteredTable, MirroredTable,
    S3Table, TieredTable,
};
use crate::error::Error;
use crate::{
    BlobStore, DeadlineBlobStore, DeadlineOptions, DigestRememberingBlobStore, DiskBlobStore,
    DiskBlobStoreOptions, ExistenceCachingBlobStore, ExistenceCachingOptions, HttpBlobStore, MemoryBlobStore,
    MeteredBlobStore, MirroredBlobStore, OneSideDown, ReadOnlyBlobStore, RemoteBlobStore,
    RemoteBlobStoreOptions, S3BlobStore, Shard, ShardedBlobStore, TieredBlobStore, VerifyingBlobStore,
    WriteBackOptions,
};

type Store = Arc<dyn BlobStore>;

/// Opens blob stores. Each kind that keeps blobs verifies them, so no decorator has to do it again.
pub(super) struct BlobStores;

#[async_trait]
impl StoreFamily for BlobStores {
    type Store = dyn BlobStore;

    fn memory() -> Store {
        Arc::new(MemoryBlobStore::default())
    }

    async fn disk(table: &DiskTable, opened: &mut OpenedStores) -> Result<Store, Error> {
        let options = DiskBlobStoreOptions {
            limit_bytes: table.size.unwrap_or(ByteSize::gib(50)).as_u64(),
            free_space_floor_bytes: table.free_space.as_u64(),
            compress: table.compress,
        };
        let directory = opened.base.join(table.directory.get_ref());
        let store = DiskBlobStore::open(&directory, options).await?;
        opened.disk_stores.push(store.clone());
        Ok(Arc::new(store))
    }

    async fn grpc(table: &GrpcTable, opened: &OpenedStores) -> Result<Store, Error> {
        let options = RemoteBlobStoreOptions {
            compression: table.compression,
        };
        let instance = InstanceName::new(table.instance.clone())
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let channel = channel(table, &opened.base).await?;
        let remote = RemoteBlobStore::connect_with(channel, instance, options).await?;
        // It verifies only what it reads by itself.
        let verifying = VerifyingBlobStore::new(Arc::new(remote));
        Ok(Arc::new(DigestRememberingBlobStore::new(Arc::new(verifying))))
    }

    fn http(table: &HttpTable, opened: &OpenedStores) -> Result<Store, Error> {
        Ok(Arc::new(HttpBlobStore::new(http_cache(table, &opened.base)?)))
    }

    async fn s3(table: &S3Table) -> Result<Store, Error> {
        Ok(Arc::new(S3BlobStore::new(bucket(table).await?)))
    }

    async fn tiered(
        table: &TieredTable,
        fast: Store,
        slow: Store,
        opened: &OpenedStores,
    ) -> Result<Store, Error> {
        let Some(write_back) = &table.write_back else {
            return Ok(Arc::new(TieredBlobStore::write_through(fast, slow)));
        };
        let options = WriteBackOptions {
            directory: opened.base.join(write_back.directory.get_ref()),
            max_blobs: write_back.max_blobs,
            max_bytes: write_back.max_size.get_ref().as_u64(),
            concurrency: write_back.concurrency,
        };
        Ok(Arc::new(TieredBlobStore::write_back(fast, slow, options).await?))
    }

    fn read_only(inner: Store) -> Store {
        Arc::new(ReadOnlyBlobStore::new(inner))
    }

    fn existence_caching(table: &ExistenceCachingTable, inner: Store) -> Store {
        let options = ExistenceCachingOptions {
            max_entries: table.max_entries,
            max_age: table.max_age,
        };
        Arc::new(ExistenceCachingBlobStore::new(inner, options))
    }

    fn sharded(shards: Vec<Shard<dyn BlobStore>>) -> Result<Store, Error> {
        Ok(Arc::new(ShardedBlobStore::new(shards)?))
    }

    fn mirrored(table: &MirroredTable, one: Store, other: Store) -> Store {
        let policy = OneSideDown::degrade_if(table.degrade);
        Arc::new(MirroredBlobStore::new(one, other, policy))
    }

    fn metered(table: &MeteredTable, inner: Store) -> Store {
        Arc::new(MeteredBlobStore::new(table.name.clone(), inner))
    }

    fn deadline(table: &DeadlineTable, inner: Store) -> Store {
        let options = DeadlineOptions {
            call: table.call,
            progress: table.progress,
            ..DeadlineOptions::default()
        };
        Arc::new(DeadlineBlobStore::new(inner, options))
    }
}
