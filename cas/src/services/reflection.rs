//! What the server's services and messages are: gRPC reflection, for tools like grpcurl.

use bitzel_proto::FILE_DESCRIPTOR_SET;
use tonic_reflection::server::Builder;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::error::Error;

/// The service for a tonic router. It names all services of the Remote Execution and Remote Asset APIs, `ByteStream`,
/// and health checking.
pub fn service() -> Result<ServerReflectionServer<impl ServerReflection>, Error> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::io("cannot describe the services")(std::io::Error::other(error)))
}
