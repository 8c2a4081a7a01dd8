//! Files of a build on the client's disk.

use std::fs;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bitzel_cas::BlobSource;
use bitzel_cas::blocking::run_blocking;
use bitzel_graph::walk::BuildFiles;
use bitzel_proto::Digest;

use crate::local_tree::LocalTree;
use crate::stat_cache::hash_file;

/// Source of a build's files that reads the client's disk.
pub(crate) struct ClientFiles {
    metadata: LocalTree,
    snapshots: PathBuf,
    downloads: PathBuf,
}

impl ClientFiles {
    /// Creates a source of the files of `metadata`, of data store snapshots named by their SHA-256, and of downloads.
    pub(crate) fn new(metadata: LocalTree, snapshots: PathBuf, downloads: PathBuf) -> Self {
        Self {
            metadata,
            snapshots,
            downloads,
        }
    }
}

#[async_trait]
impl BuildFiles for ClientFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        let directories = self.metadata.directories.iter();
        let files = self.metadata.files.iter();
        directories
            .map(|(digest, bytes)| (*digest, BlobSource::Bytes(bytes.clone())))
            .chain(files.map(|(digest, path)| (*digest, BlobSource::File(path.clone()))))
            .collect()
    }

    fn snapshot(&self, digest: Digest) -> BlobSource {
        BlobSource::File(self.snapshots.join(digest.hash_hex()))
    }

    async fn download(&self, name: &str) -> io::Result<Option<(Digest, BlobSource)>> {
        let path = self.downloads.join(name);
        let function = self.metadata.root.function();
        run_blocking(move || {
            if !fs::metadata(&path)?.is_file() {
                return Ok(None);
            }
            Ok(Some((hash_file(&path, function)?, BlobSource::File(path))))
        })
        .await
    }
}
