//! Files of a build that its client has uploaded.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::{BlobSource, BlobStore};
use bitzel_graph::walk::BuildFiles;
use bitzel_proto::Digest;

/// Files in the store itself. A lease holds them there as long as the build is walked.
pub(crate) struct StoredFiles {
    pub(crate) store: Arc<dyn BlobStore>,
    /// Downloads by their name below `DL_DIR`.
    pub(crate) downloads: BTreeMap<String, Digest>,
}

#[async_trait]
impl BuildFiles for StoredFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        // Nothing has to be uploaded.
        vec![]
    }

    fn snapshot(&self, _: Digest) -> BlobSource {
        BlobSource::Store(Arc::clone(&self.store))
    }

    async fn download(&self, name: &str) -> io::Result<Option<(Digest, BlobSource)>> {
        let digest = self.downloads.get(name);
        Ok(digest.map(|digest| (*digest, BlobSource::Store(Arc::clone(&self.store)))))
    }
}
