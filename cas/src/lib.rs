//! Content-addressable stores and action caches behind two small traits, and the Remote Execution API services on
//! top of them.
//!
//! [`BlobStore`] and [`ActionCache`] are the traits; everything else either implements one on some medium
//! (`memory_…`, `disk_…`, `remote_…`), decorates one with a behaviour (adjective + trait), or serves one over gRPC
//! (`services`).

pub mod access;
pub mod action_cache;
pub mod assistant;
pub mod assisted_blob_store;
pub mod blob_store;
pub mod blocking;
mod bounded_directory;
pub mod coalescing_blob_store;
pub mod completeness_checking_action_cache;
pub mod counting_blob_store;
pub mod deadline_action_cache;
pub mod deadline_blob_store;
pub mod denial_tolerating_action_cache;
pub mod digest_remembering_blob_store;
pub mod directory_lock;
pub mod directory_tree;
pub mod disk_action_cache;
pub mod disk_blob_store;
pub mod endpoint;
pub mod error;
pub mod existence_caching_blob_store;
#[cfg(test)]
mod failing_action_cache;
#[cfg(test)]
mod failing_blob_store;
pub mod file_stream;
mod free_space;
pub mod grpc_status;
pub mod http_action_cache;
pub mod http_blob_store;
pub mod http_cache;
pub mod memory_action_cache;
pub mod memory_blob_store;
pub mod metered_action_cache;
pub mod metered_blob_store;
pub mod mirrored_action_cache;
pub mod mirrored_blob_store;
pub mod read_only_action_cache;
pub mod read_only_blob_store;
pub mod remote_action_cache;
pub mod remote_blob_store;
mod rendezvous;
mod result_blobs;
mod result_message;
mod resumed_stream;
pub mod retry;
pub mod s3_action_cache;
pub mod s3_blob_store;
pub mod s3_bucket;
pub mod services;
pub mod sharded_action_cache;
pub mod sharded_blob_store;
pub mod sharing_action_cache;
pub mod store_configuration;
pub mod store_factory;
mod tee;
pub mod telemetry;
pub mod tiered_action_cache;
pub mod tiered_blob_store;
pub mod upload;
pub mod verifying_blob_store;

pub use action_cache::ActionCache;
pub use assistant::Assistant;
pub use assisted_blob_store::AssistedBlobStore;
pub use blob_store::{BlobRange, BlobStore, BlobStream, Lease};
pub use coalescing_blob_store::CoalescingBlobStore;
pub use completeness_checking_action_cache::CompletenessCheckingActionCache;
pub use counting_blob_store::CountingBlobStore;
pub use deadline_action_cache::DeadlineActionCache;
pub use deadline_blob_store::{DeadlineBlobStore, DeadlineOptions};
pub use denial_tolerating_action_cache::DenialToleratingActionCache;
pub use digest_remembering_blob_store::DigestRememberingBlobStore;
pub use directory_lock::DirectoryLock;
pub use directory_tree::{DirectoryCache, DirectoryTree, fetch_directory_tree};
pub use disk_action_cache::DiskActionCache;
pub use disk_blob_store::{DiskBlobStore, DiskBlobStoreOptions};
pub use error::Error;
pub use existence_caching_blob_store::{ExistenceCachingBlobStore, ExistenceCachingOptions};
pub use http_action_cache::HttpActionCache;
pub use http_blob_store::HttpBlobStore;
pub use http_cache::{HttpCache, HttpCacheOptions, HttpCredentials};
pub use memory_action_cache::MemoryActionCache;
pub use memory_blob_store::MemoryBlobStore;
pub use metered_action_cache::MeteredActionCache;
pub use metered_blob_store::MeteredBlobStore;
pub use mirrored_action_cache::MirroredActionCache;
pub use mirrored_blob_store::{MirroredBlobStore, OneSideDown};
pub use read_only_action_cache::ReadOnlyActionCache;
pub use read_only_blob_store::{ReadOnlyBlobStore, Writes};
pub use remote_action_cache::RemoteActionCache;
pub use remote_blob_store::{RemoteBlobStore, RemoteBlobStoreOptions};
pub use s3_action_cache::S3ActionCache;
pub use s3_blob_store::S3BlobStore;
pub use s3_bucket::{S3Bucket, S3Credentials, S3Options};
pub use sharded_action_cache::ShardedActionCache;
pub use sharded_blob_store::{Shard, ShardedBlobStore};
pub use sharing_action_cache::SharingActionCache;
pub use tiered_action_cache::TieredActionCache;
pub use tiered_blob_store::{TieredBlobStore, WriteBackOptions, WriteBackStatus};
pub use upload::{BlobSource, UploadSummary, upload_missing};
pub use verifying_blob_store::VerifyingBlobStore;
