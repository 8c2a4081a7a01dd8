//! The trait behind which a configuration is opened as blob stores or as action caches.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::composition::store_configuration::{
    DeadlineTable, DiskTable, ExistenceCachingTable, GrpcTable, HttpTable, MeteredTable, MirroredTable,
    S3Table, TieredTable,
};
use crate::error::Error;
use crate::{DiskActionCache, DiskBlobStore, Shard};

/// Stores on disk that were opened, and the directory that relative paths in a configuration are relative to.
#[derive(Default)]
pub(super) struct OpenedStores {
    pub(super) base: PathBuf,
    pub(super) disk_stores: Vec<DiskBlobStore>,
    pub(super) disk_caches: Vec<DiskActionCache>,
}

/// One of the two traits that stores implement: opens each kind of configuration, given the stores below it.
///
/// A new kind needs a method here, so that neither family can lack it.
#[async_trait]
pub(super) trait StoreFamily {
    /// The trait of the family.
    type Store: ?Sized + Send + Sync;

    fn memory() -> Arc<Self::Store>;

    async fn disk(table: &DiskTable, opened: &mut OpenedStores) -> Result<Arc<Self::Store>, Error>;

    async fn grpc(table: &GrpcTable, opened: &OpenedStores) -> Result<Arc<Self::Store>, Error>;

    fn http(table: &HttpTable, opened: &OpenedStores) -> Result<Arc<Self::Store>, Error>;

    async fn s3(table: &S3Table) -> Result<Arc<Self::Store>, Error>;

    async fn tiered(
        table: &TieredTable,
        fast: Arc<Self::Store>,
        slow: Arc<Self::Store>,
        opened: &OpenedStores,
    ) -> Result<Arc<Self::Store>, Error>;

    fn read_only(inner: Arc<Self::Store>) -> Arc<Self::Store>;

    fn existence_caching(table: &ExistenceCachingTable, inner: Arc<Self::Store>) -> Arc<Self::Store>;

    fn sharded(shards: Vec<Shard<Self::Store>>) -> Result<Arc<Self::Store>, Error>;

    fn mirrored(table: &MirroredTable, one: Arc<Self::Store>, other: Arc<Self::Store>) -> Arc<Self::Store>;

    fn metered(table: &MeteredTable, inner: Arc<Self::Store>) -> Arc<Self::Store>;

    fn deadline(table: &DeadlineTable, inner: Arc<Self::Store>) -> Arc<Self::Store>;
}
