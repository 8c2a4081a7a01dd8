//! The stores of the instances.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::{BlobStore, RemoteBlobStore};
use bitzel_proto::InstanceName;
use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};
use tokio::sync::Mutex;

use crate::error::Error;

/// Finds the store of an instance.
#[async_trait]
pub trait BlobStores: Send + Sync + 'static {
    /// The store that holds the blobs of the Actions of `instance` and receives those of their results.
    async fn store(&self, instance: &InstanceName) -> Result<Arc<dyn BlobStore>, Error>;
}

/// One store for all instances.
#[async_trait]
impl BlobStores for Arc<dyn BlobStore> {
    async fn store(&self, _instance: &InstanceName) -> Result<Arc<dyn BlobStore>, Error> {
        Ok(Self::clone(self))
    }
}

/// Clients of the stores of a server, connected when the first Action needs them.
#[derive(Debug)]
pub struct RemoteBlobStores {
    endpoint: String,
    credentials: ClientCredentials,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    channel: Option<Channel>,
    stores: HashMap<InstanceName, Arc<RemoteBlobStore>>,
}

impl RemoteBlobStores {
    /// Clients of the stores of the server at `endpoint`.
    pub fn new(endpoint: String, credentials: ClientCredentials) -> Self {
        Self {
            endpoint,
            credentials,
            connections: Mutex::default(),
        }
    }
}

#[async_trait]
impl BlobStores for RemoteBlobStores {
    async fn store(&self, instance: &InstanceName) -> Result<Arc<dyn BlobStore>, Error> {
        let mut connections = self.connections.lock().await;
        if let Some(store) = connections.stores.get(instance) {
            return Ok(store.clone());
        }
        let channel = if let Some(channel) = &connections.channel {
            channel.clone()
        } else {
            // A channel reconnects by itself when the server restarts.
            let channel = endpoint::connect_with(&self.endpoint, &self.credentials)
                .await
                .map_err(bitzel_cas::Error::from)?;
            connections.channel.insert(channel).clone()
        };
        let store = Arc::new(RemoteBlobStore::connect(channel, instance.clone()).await?);
        connections.stores.insert(instance.clone(), store.clone());
        Ok(store)
    }
}
