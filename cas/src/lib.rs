//! Content-addressable stores and action caches behind two small traits, and the Remote Execution API services on
//! top of them.
//!
//! [`BlobStore`] and [`ActionCache`] are the traits; everything else either implements one on some medium
//! (`memory_…`, `disk_…`, `remote_…`), decorates one with a behaviour (adjective + trait), or serves one over gRPC
//! (`services`).

pub mod action_cache;
pub mod blob_store;
mod bounded_directory;
pub mod completeness_checking_action_cache;
pub mod counting_blob_store;
pub mod directory_tree;
pub mod disk_action_cache;
pub mod disk_blob_store;
pub mod endpoint;
pub mod error;
pub mod file_stream;
pub mod grpc_status;
pub mod memory_action_cache;
pub mod memory_blob_store;
pub mod remote_action_cache;
pub mod remote_blob_store;
pub mod services;
pub mod telemetry;
pub mod upload;
pub mod verifying_blob_store;

pub use action_cache::ActionCache;
pub use blob_store::{BlobRange, BlobStore, BlobStream, Lease};
pub use completeness_checking_action_cache::CompletenessCheckingActionCache;
pub use counting_blob_store::CountingBlobStore;
pub use directory_tree::{DirectoryCache, DirectoryTree, fetch_directory_tree};
pub use disk_action_cache::DiskActionCache;
pub use disk_blob_store::{DiskBlobStore, DiskBlobStoreOptions};
pub use error::Error;
pub use memory_action_cache::MemoryActionCache;
pub use memory_blob_store::MemoryBlobStore;
pub use remote_action_cache::RemoteActionCache;
pub use remote_blob_store::RemoteBlobStore;
pub use upload::{BlobSource, UploadSummary, upload_missing};
pub use verifying_blob_store::VerifyingBlobStore;
