//! What clients say about themselves and their builds.

use bitzel_proto::reapi::RequestMetadata;
use http::HeaderMap;
use prost::Message as _;
use tonic::metadata::MetadataMap;

/// The header in which clients send a `RequestMetadata` (`remote_execution.proto`, there).
pub const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// More than any client sends; a larger one is not worth decoding for a log line.
const MAX_ENCODED: usize = 16 << 10;

/// The `RequestMetadata` of a request. What does not decode is left out: it only serves logs.
pub fn request_metadata(headers: &HeaderMap) -> Option<RequestMetadata> {
    let value = headers.get(REQUEST_METADATA)?;
    if value.len() > MAX_ENCODED {
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
