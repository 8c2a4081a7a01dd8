//! Composition of a server's stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::composition::store_configuration::StoreConfiguration;
use bitzel_cas::{
    ActionCache, BlobStore, CircuitBreaker, CompletenessCheckingActionCache, InstanceBlobStores,
    ReadThroughActionCache, ReadThroughBlobStore,
};

use crate::tenants::Tenants;

/// Configuration of the stores of a server.
#[derive(Clone)]
pub struct StoreLayout {
    /// The blob store.
    pub blobs: StoreConfiguration,
    /// The action cache.
    pub results: StoreConfiguration,
    /// Base directory of relative paths.
    pub base: PathBuf,
}

impl StoreLayout {
    /// Keeps both stores in a directory of this machine, each with at most `size` bytes.
    pub fn in_directory(directory: &Path, size: u64) -> Self {
        Self {
            blobs: StoreConfiguration::disk("cas".into(), size),
            results: StoreConfiguration::disk("ac".into(), size),
            base: directory.to_owned(),
        }
    }
}

/// Remote cache that a server reads from, and writes to in the background. It is not trusted, and a call to it never
/// takes longer than its deadline.
#[derive(Clone)]
pub struct SharedCache {
    /// Blobs of the cache.
    pub blobs: Arc<dyn BlobStore>,
    /// Results of the cache.
    pub results: Arc<dyn ActionCache>,
    /// Circuit breaker, which stops the use of the cache while it is slow or failing.
    pub circuit_breaker: Arc<CircuitBreaker>,
    /// True if new results are written to the cache.
    pub is_written: bool,
}

/// Stores as the services see them.
pub(crate) struct Stores {
    pub(crate) blobs: InstanceBlobStores,
    pub(crate) results: Arc<dyn ActionCache>,
    /// Background writer, which may have results left to write when the services have ended.
    pub(crate) sharing: Option<Arc<ReadThroughActionCache>>,
}

impl Stores {
    /// Puts the stores together, with the shared cache behind them. Tenants come last: every store below may end a write
    /// without reading it.
    pub(crate) fn new(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        shared: Option<SharedCache>,
        tenants: Option<Tenants>,
    ) -> Self {
        let Some(shared) = shared else {
            return Self::complete(blobs, results, None, tenants);
        };
        let blobs: Arc<dyn BlobStore> = Arc::new(ReadThroughBlobStore::new(
            blobs,
            Arc::clone(&shared.blobs),
            Arc::clone(&shared.circuit_breaker),
        ));
        let results = ReadThroughActionCache::new(results, shared.results, shared.circuit_breaker);
        let sharing = Arc::new(if shared.is_written {
            results.with_write_through(Arc::clone(&blobs), shared.blobs)
        } else {
            results
        });
        Self::complete(blobs, sharing.clone(), Some(sharing), tenants)
    }

    fn complete(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        sharing: Option<Arc<ReadThroughActionCache>>,
        tenants: Option<Tenants>,
    ) -> Self {
        let blobs = match tenants {
            None => InstanceBlobStores::shared(blobs),
            Some(tenants) => tenants.stores(blobs),
        };
        Self {
            results: Arc::new(CompletenessCheckingActionCache::new(results, blobs.clone())),
            blobs,
            sharing,
        }
    }
}
