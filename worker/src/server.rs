//! What a worker needs of a server.

use std::sync::Arc;

use bitzel_rpc::endpoint::ClientCredentials;

use crate::action_source::{ActionSource, RemoteActionSource};
use crate::blob_stores::{BlobStores, RemoteBlobStores};

/// A server: whose Actions a worker runs, and where their blobs are. In the process of the server itself both are its
/// own parts; between processes, clients of its services.
#[derive(Clone)]
pub struct Server {
    /// Gives Actions and takes their results.
    pub actions: Arc<dyn ActionSource>,
    /// Have what Actions need, and get what they leave.
    pub blobs: Arc<dyn BlobStores>,
}

impl Server {
    /// The server at `endpoint`: `grpcs://host:port`, `grpc://host:port` or `unix:/path`. The `credentials` prove to it
    /// that this is a worker.
    pub fn remote(endpoint: &str, credentials: &ClientCredentials) -> Self {
        Self {
            actions: Arc::new(RemoteActionSource::new(endpoint, credentials.clone())),
            blobs: Arc::new(RemoteBlobStores::new(endpoint.to_owned(), credentials.clone())),
        }
    }
}
