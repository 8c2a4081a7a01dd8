//! Content-addressable stores and action caches behind two small traits.
//!
//! [`BlobStore`] and [`ActionCache`] are the traits. `media` implements them on some medium (`memory_…`, `disk_…`,
//! `remote_…`), `decorators` adds one behaviour each to another store (adjective + trait), and `composition` opens the
//! stores that a configuration describes. The crate `bitzel-cas-server` serves them.

pub mod action_cache;
pub mod batching;
pub mod blob_store;
pub mod blocking;
#[cfg(feature = "composition")]
pub mod composition;
pub mod compression;
pub mod decorators;
pub mod directory_lock;
pub mod directory_tree;
pub mod error;
pub mod file_stream;
pub mod free_space;
pub mod grpc_status;
pub mod inlining;
pub mod instance_blob_stores;
pub mod media;
pub mod notice;
mod result_blobs;
pub mod retry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upload;
mod weighted_cache;

pub use action_cache::ActionCache;
pub use blob_store::{BlobRange, BlobStore, BlobStream, Lease};
pub use decorators::circuit_breaker::CircuitBreaker;
pub use decorators::coalescing_blob_store::CoalescingBlobStore;
pub use decorators::completeness_checking_action_cache::CompletenessCheckingActionCache;
pub use decorators::counting_blob_store::CountingBlobStore;
pub use decorators::deadline_action_cache::DeadlineActionCache;
pub use decorators::deadline_blob_store::{DeadlineBlobStore, DeadlineOptions};
pub use decorators::denial_tolerating_action_cache::DenialToleratingActionCache;
pub use decorators::digest_remembering_blob_store::DigestRememberingBlobStore;
pub use decorators::existence_caching_blob_store::{ExistenceCachingBlobStore, ExistenceCachingOptions};
pub use decorators::isolated_blob_store::{ConfirmedMarkers, IsolatedBlobStore, PossessionKey};
pub use decorators::metered_action_cache::MeteredActionCache;
pub use decorators::metered_blob_store::MeteredBlobStore;
pub use decorators::mirrored_action_cache::MirroredActionCache;
pub use decorators::mirrored_blob_store::{MirroredBlobStore, OneSideDown};
pub use decorators::read_only_action_cache::ReadOnlyActionCache;
pub use decorators::read_only_blob_store::ReadOnlyBlobStore;
pub use decorators::read_through_action_cache::ReadThroughActionCache;
pub use decorators::read_through_blob_store::ReadThroughBlobStore;
pub use decorators::sharded_action_cache::ShardedActionCache;
pub use decorators::sharded_blob_store::{Shard, ShardedBlobStore};
pub use decorators::tiered_action_cache::TieredActionCache;
pub use decorators::tiered_blob_store::{TieredBlobStore, WriteBackOptions, WriteBackStatus};
pub use decorators::verifying_blob_store::VerifyingBlobStore;
pub use directory_lock::DirectoryLock;
pub use directory_tree::{DirectoryCache, DirectoryTree, fetch_directory_tree};
pub use error::Error;
pub use instance_blob_stores::{InstanceBlobStores, TenantNames};
pub use media::disk_action_cache::DiskActionCache;
pub use media::disk_blob_store::{DiskBlobStore, DiskBlobStoreOptions};
#[cfg(feature = "http")]
pub use media::http_action_cache::HttpActionCache;
#[cfg(feature = "http")]
pub use media::http_blob_store::HttpBlobStore;
#[cfg(feature = "http")]
pub use media::http_cache::{HttpCache, HttpCacheOptions, HttpCredentials};
pub use media::memory_action_cache::MemoryActionCache;
pub use media::memory_blob_store::MemoryBlobStore;
pub use media::remote_action_cache::RemoteActionCache;
pub use media::remote_blob_store::{RemoteBlobStore, RemoteBlobStoreOptions};
#[cfg(feature = "s3")]
pub use media::s3_action_cache::S3ActionCache;
#[cfg(feature = "s3")]
pub use media::s3_blob_store::S3BlobStore;
#[cfg(feature = "s3")]
pub use media::s3_bucket::{S3Bucket, S3Credentials, S3Options};
pub use upload::{BlobSource, UploadSummary, upload_missing};
