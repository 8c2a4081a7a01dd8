//! gRPC reflection: descriptions of the services and messages, for tools like grpcurl.

use bitzel_proto::FILE_DESCRIPTOR_SET;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::error::Error;

/// The service for a tonic router. It describes all services of the Remote Execution and Remote Asset APIs, `ByteStream`,
/// and health checking.
pub fn service() -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    Ok(Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?)
}
