//! Clients and access control against the real services.

mod access;
mod digest_remembering_blob_store;
mod endpoint;
mod remote_action_cache;
mod remote_blob_store;
mod tenants;
