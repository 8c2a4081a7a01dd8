//! Request metadata: a client's description of itself and its build.

use bitzel_proto::reapi::RequestMetadata;
use http::HeaderMap;
use prost::Message as _;
use tonic::metadata::MetadataMap;

/// Header in which clients send a `RequestMetadata` (`remote_execution.proto`, there).
pub const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Largest encoded metadata that is decoded. It is more than any client sends.
const MAX_ENCODED_BYTES: usize = 16 << 10;

/// The `RequestMetadata` of a request, or `None` if it does not decode: it only serves logs.
pub fn request_metadata(headers: &HeaderMap) -> Option<RequestMetadata> {
    let value = headers.get(REQUEST_METADATA)?;
    if value.len() > MAX_ENCODED_BYTES {
        return None;
    }
    let mut only = HeaderMap::new();
    only.insert(REQUEST_METADATA, value.clone());
    let bytes = MetadataMap::from_headers(only)
        .get_bin(REQUEST_METADATA)?
        .to_bytes()
        .ok()?;
    RequestMetadata::decode(bytes).ok()
}
