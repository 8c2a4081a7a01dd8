//! Stores of a server, put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::composition::store_configuration::StoreConfiguration;
use bitzel_cas::{
    ActionCache, Assistant, AssistedBlobStore, BlobStore, CompletenessCheckingActionCache, SharingActionCache,
};

/// Configuration of the stores of a server.
#[derive(Clone)]
pub struct StoreLayout {
    /// The blob store.
    pub blobs: StoreConfiguration,
    /// The action cache.
    pub results: StoreConfiguration,
    /// Directory that relative paths are relative to.
    pub base: PathBuf,
}

impl StoreLayout {
    /// Places both in a directory of this machine. The blob store takes at most `size` bytes.
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
    /// Its blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Its results.
    pub results: Arc<dyn ActionCache>,
    /// Stops the use of the cache while it is slow or failing.
    pub assistant: Arc<Assistant>,
    /// True if new results are written to it.
    pub is_written: bool,
}

/// Stores as the services see them.
pub(crate) struct Stores {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) results: Arc<dyn ActionCache>,
    /// Writer in the background, which may have results left to write when the services have ended.
    pub(crate) sharing: Option<Arc<SharingActionCache>>,
}

impl Stores {
    pub(crate) fn new(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        shared: Option<SharedCache>,
    ) -> Self {
        let Some(shared) = shared else {
            return Self::complete(blobs, results, None);
        };
        let sharing = SharingActionCache::taking(results, shared.results, Arc::clone(&shared.assistant));
        let assisted: Arc<dyn BlobStore> = Arc::new(AssistedBlobStore::new(
            blobs,
            Arc::clone(&shared.blobs),
            shared.assistant,
        ));
        let sharing = Arc::new(if shared.is_written {
            sharing.giving(Arc::clone(&assisted), shared.blobs)
        } else {
            sharing
        });
        Self::complete(assisted, sharing.clone(), Some(sharing))
    }

    fn complete(
        blobs: Arc<dyn BlobStore>,
        results: Arc<dyn ActionCache>,
        sharing: Option<Arc<SharingActionCache>>,
    ) -> Self {
        Self {
            results: Arc::new(CompletenessCheckingActionCache::new(results, Arc::clone(&blobs))),
            blobs,
            sharing,
        }
    }
}
