//! The blob stores of a server for a worker in the same process.

use std::sync::Arc;

use bitzel_cas::{BlobStore, InstanceBlobStores};
use bitzel_proto::InstanceName;
use bitzel_worker::{BlobStores, Error};

/// Stores in this process. Each Action gets that of its instance, as a worker in another process does by naming the
/// instance in its calls.
pub(crate) struct LocalBlobStores(pub(crate) InstanceBlobStores);

#[tonic::async_trait]
impl BlobStores for LocalBlobStores {
    async fn store(&self, instance: &InstanceName) -> Result<Arc<dyn BlobStore>, Error> {
        Ok(self.0.store(instance))
    }
}
