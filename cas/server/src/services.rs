//! Services of the Remote Execution API for a blob store and an action cache.
//!
//! A digest identifies a blob completely, so instances may share blobs. Those of different tenants do not
//! ([`bitzel_cas::InstanceBlobStores`]): every call uses the store of the instance that it names. Results are kept apart by
//! instance. Every service checks the instance names.

pub mod action_cache;
pub mod byte_stream;
pub mod capabilities;
pub mod content_addressable_storage;
pub mod health;
pub mod reflection;
pub mod remote_asset;
mod request_context;

use std::fmt::Display;

use bitzel_access::ResponseMemory;
use bitzel_proto::{Digest, DigestFunction, InstanceName, InvalidDigest, reapi};
use tonic::{Response, Status};

use self::request_context::RequestContext;

pub use action_cache::ActionCacheService;
pub use byte_stream::ByteStreamService;
pub use capabilities::CapabilitiesService;
pub use content_addressable_storage::{Chunking, ContentAddressableStorageService};
pub use remote_asset::RemoteAssetService;

/// Memory of a digest in a message: the hash in hexadecimal, the size and the tags.
const DIGEST_MESSAGE_BYTES: u64 = 80;
/// Largest data in one message of a stream.
const MAX_STREAM_MESSAGE_BYTES: usize = 1 << 20;

fn digest_function(value: i32) -> Result<DigestFunction, Status> {
    DigestFunction::from_wire(value)
        .ok_or_else(|| Status::invalid_argument(InvalidDigest::Function(value).to_string()))
}

fn digest(
    function: DigestFunction,
    value: Option<&reapi::Digest>,
    field: impl Display,
) -> Result<Digest, Status> {
    Digest::from_wire_field(function, value)
        .map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn instance_name(name: &str) -> Result<InstanceName, Status> {
    InstanceName::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Response whose memory is reserved until it has left for the network.
fn holding<M>(memory: ResponseMemory, message: M) -> Response<M> {
    let mut response = Response::new(message);
    response.extensions_mut().insert(memory);
    response
}

#[cfg(test)]
pub(crate) mod tests;
