//! Behaviour around blob stores and action caches, one decorator per file.

pub mod circuit_breaker;
pub mod coalescing_blob_store;
pub mod completeness_checking_action_cache;
pub mod counting_blob_store;
pub mod deadline_action_cache;
pub mod deadline_blob_store;
pub mod denial_tolerating_action_cache;
pub mod digest_remembering_blob_store;
pub mod existence_caching_blob_store;
pub mod isolated_blob_store;
pub mod metered_action_cache;
pub mod metered_blob_store;
pub mod mirrored_action_cache;
pub mod mirrored_blob_store;
pub mod read_only_action_cache;
pub mod read_only_blob_store;
pub mod read_through_action_cache;
pub mod read_through_blob_store;
pub(crate) mod rendezvous;
pub mod sharded_action_cache;
pub mod sharded_blob_store;
pub(crate) mod tee;
pub mod tiered_action_cache;
pub mod tiered_blob_store;
pub mod verifying_blob_store;
