//! Connection of a worker to its server.

use std::sync::Arc;

use bitzel_rpc::endpoint::ClientCredentials;

use crate::action_source::{ActionSource, RemoteActionSource};
use crate::blob_stores::{BlobStores, RemoteBlobStores};

/// The scheduler from which a worker takes Actions, and the stores of their blobs. In the process of the server these
/// are its own parts, in other processes they are clients of its services.
#[derive(Clone)]
pub struct ServerConnection {
    /// Assigns Actions and receives their results.
    pub actions: Arc<dyn ActionSource>,
    /// Hold the inputs of Actions and receive their outputs.
    pub blobs: Arc<dyn BlobStores>,
}

impl ServerConnection {
    /// A connection to the server at `endpoint`: `grpcs://host:port`, `grpc://host:port` or `unix:/path`. The
    /// `credentials` prove that the client is a worker.
    pub fn remote(endpoint: &str, credentials: &ClientCredentials) -> Self {
        Self {
            actions: Arc::new(RemoteActionSource::new(endpoint, credentials.clone())),
            blobs: Arc::new(RemoteBlobStores::new(endpoint.to_owned(), credentials.clone())),
        }
    }
}
