//! The Remote Execution API services of a store and an action cache.
//!
//! Blobs are shared by all instances, for a digest says all there is to say about a blob; action results are kept
//! apart by instance. Instance names are checked everywhere.

pub mod action_cache;
pub mod byte_stream;
pub mod capabilities;
pub mod content_addressable_storage;
pub mod health;
pub mod reflection;
pub mod remote_asset;

pub use remote_asset::RemoteAssetService;

use bitzel_proto::{Digest, DigestFunction, InstanceName, InvalidDigest, InvalidInstanceName, reapi};
use tonic::Status;

pub use action_cache::ActionCacheService;
pub use byte_stream::ByteStreamService;
pub use capabilities::{CapabilitiesService, Offer};
pub use content_addressable_storage::{Chunking, ContentAddressableStorageService};

/// Data in one message of a stream, in bytes.
const STREAM_CHUNK: usize = 1 << 20;

fn digest_function(value: i32) -> Result<DigestFunction, Status> {
    DigestFunction::from_wire(value)
        .ok_or_else(|| Status::invalid_argument(InvalidDigest::Function(value).to_string()))
}

fn digest(function: DigestFunction, digest: Option<&reapi::Digest>, what: &str) -> Result<Digest, Status> {
    Digest::from_wire_field(function, digest)
        .map_err(|error| Status::invalid_argument(format!("{what}: {error}")))
}

fn instance_name(name: String) -> Result<InstanceName, Status> {
    InstanceName::new(name).map_err(|error: InvalidInstanceName| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
