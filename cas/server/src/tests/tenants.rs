//! Tenants of a server.

use std::sync::Arc;

use bitzel_cas::{CircuitBreaker, MemoryActionCache, MemoryBlobStore, PossessionKey};

use crate::{CacheServer, Error, ServerConfig, SharedCache, StoreLayout, Tenants};

#[tokio::test]
async fn f12_a_shared_cache_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stores = StoreLayout::in_directory(directory.path(), 1 << 20);
    let mut config = ServerConfig::new(stores);
    config.tenants = Some(Tenants::new(vec![], PossessionKey::new(b"secret")));
    config.shared_cache = Some(SharedCache {
        blobs: Arc::new(MemoryBlobStore::default()),
        results: Arc::new(MemoryActionCache::default()),
        circuit_breaker: Arc::new(CircuitBreaker::new("shared")),
        is_written: true,
    });
    let refused = CacheServer::open(config).await.err();
    assert!(
        matches!(refused, Some(Error::SharedCacheOfTenants)),
        "{refused:?}"
    );
}
