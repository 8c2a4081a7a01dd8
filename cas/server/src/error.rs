//! Errors of the server.

/// Reasons why a server does not start, or ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A store cannot be opened or closed.
    #[error(transparent)]
    Store(#[from] bitzel_cas::Error),
    /// Tenants would get the results and blobs of each other from a cache that all share.
    #[error(
        "a shared cache cannot be used with tenants: it does not keep them apart; leave one of the two out"
    )]
    SharedCacheOfTenants,
    /// A gRPC listener failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptions of the services are inconsistent.
    #[error("cannot describe the services for gRPC reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}
