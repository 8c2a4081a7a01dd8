//! Stores and action caches on a medium: memory, disk, another server, a bucket.

#[cfg(any(feature = "http", feature = "s3"))]
pub(crate) mod action_result_message;
pub(crate) mod bounded_directory;
pub mod disk_action_cache;
pub mod disk_blob_store;
#[cfg(feature = "http")]
pub mod http_action_cache;
#[cfg(feature = "http")]
pub mod http_blob_store;
#[cfg(feature = "http")]
pub mod http_cache;
pub mod memory_action_cache;
pub mod memory_blob_store;
pub mod remote_action_cache;
pub mod remote_blob_store;
pub(crate) mod resumed_stream;
#[cfg(feature = "s3")]
pub mod s3_action_cache;
#[cfg(feature = "s3")]
pub mod s3_blob_store;
#[cfg(feature = "s3")]
pub mod s3_bucket;
