//! Files of a build whose tasks run in an image root.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::BlobSource;
use bitzel_graph::walk::BuildFiles;
use bitzel_proto::Digest;
use bitzel_roots::Checkout;

use crate::console;

/// Files of a build, with those of its image root: like the metadata they are uploaded once if the store lacks them, and
/// only if a task is executed.
pub(crate) struct RootedBuildFiles {
    pub(crate) inner: Arc<dyn BuildFiles>,
    pub(crate) root: Checkout,
}

#[async_trait]
impl BuildFiles for RootedBuildFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        let mut blobs = self.inner.metadata();
        match self.root.blobs() {
            Ok(root) => blobs.extend(root),
            // The store may have all of it.
            Err(error) => console::warn(&bitzel_proto::with_causes(&error)),
        }
        blobs
    }

    fn snapshot(&self, digest: Digest) -> BlobSource {
        self.inner.snapshot(digest)
    }

    async fn download(&self, name: &str) -> io::Result<Option<(Digest, BlobSource)>> {
        self.inner.download(name).await
    }
}
