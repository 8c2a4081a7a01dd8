//! Content-addressable stores and action caches behind two small traits, and the Remote Execution API services on
//! top of them.
//!
//! [`BlobStore`] and [`ActionCache`] are the traits; everything else either implements one on some medium
//! (`memory_…`, `disk_…`, `remote_…`), decorates one with a behaviour (adjective + trait), or serves one over gRPC
//! (`services`).

pub mod action_cache;
pub mod blob_store;
pub mod error;
pub mod memory_blob_store;

pub use action_cache::ActionCache;
pub use blob_store::{BlobRange, BlobStore, BlobStream};
pub use error::Error;
